// SPDX-License-Identifier: Apache-2.0
/* test_save.c -- a save whose receiver does not read, and in which QEMU's main loop hangs: it is cut, and QEMU is what
 * it was before.  Saves whose stop of the guest meets QEMU's own.  And one that nothing slows down.
 *
 * The main loop is made to wait for a page that is write protected as a device does that writes to it: by fw_cfg's
 * DMA, to which the monitor gives an address (QEMU: docs/specs/fw_cfg.rst). */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/process.h"
#include "vmm/qmp.h"
#include "vmm/save.h"

#include "check.h"

enum { OPEN_MS = 30000, HANGS_MS = 2000, UNREADABLE = 126, WORST = 24 };
enum { CONTENT_MIB = 192, USUAL_MIB_S = 128 /* QEMU's limit where nobody says anything */ };
/* The registers take their bytes in the other order: 240 MiB, at the end of what is sent. */
#define HIGH "o /w 0x514 0"
#define LOW "o /w 0x518 0xf"

static char dir[] = "/tmp/stillframe-save-XXXXXX";

struct qemu {
	struct process process;
	struct qmp *qmp;
	struct saving saving;
	int unread; /* the end from which nobody reads; -1: none yet */
};

static void on_event(void *arg, const char *name, const json_t *data)
{
	struct qemu *q = arg;
	if (streq(name, "MIGRATION"))
		save_on_event(&q->saving, data);
}

static void on_ended(void *arg, int closing)
{
	(void)arg, (void)closing;
}

/* Firmware: a processor that jumps to where it is, and so never halts (its first instruction: Intel SDM 3A, 9.1.4). */
static void write_firmware(const char *path)
{
	static unsigned char rom[64 << 10];
	rom[sizeof rom - 16] = 0xeb;
	rom[sizeof rom - 15] = 0xfe;
	FD_SCOPE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(write(fd, rom, sizeof rom) == sizeof rom);
}

/* Memory that is no zeros. */
static void write_content(const char *path)
{
	static char block[1 << 20];
	memset(block, 'x', sizeof block);
	FD_SCOPE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	for (int i = 0; i < CONTENT_MIB; i++)
		CHECK(write(fd, block, sizeof block) == sizeof block);
}

static void run_qemu(int monitor, const char *oob, const char *firmware, const char *content)
{
	char qmp[64], path[128], loader[128];
	snprintf(loader, sizeof loader, "loader,file=%s,addr=0x1000000,force-raw=on", content);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(qmp, sizeof qmp, "socket,id=qmp,fd=%d", dup(monitor));
	snprintf(path, sizeof path, "socket,id=oob,path=%s,server=on,wait=off", oob);
	execlp("qemu-system-x86_64", "qemu", "-accel", "tcg", "-M", "q35", "-m", "256", "-bios",
	       firmware, "-nodefaults", "-display", "none", "-S", "-chardev", qmp, "-mon",
	       "chardev=qmp,mode=control", "-chardev", path, "-mon", "chardev=oob,mode=control",
	       "-device", loader, (char *)NULL);
	_exit(UNREADABLE);
}

static void qemu_start(struct task *t, struct qemu *q, const char *oob, const char *firmware,
		       const char *content)
{
	int pair[2];
	write_firmware(firmware);
	write_content(content);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	*q = (struct qemu){ .process.pid = fork(), .process.pidfd = -1, .unread = -1 };
	if (q->process.pid == 0)
		run_qemu(pair[1], oob, firmware, content);
	close(pair[1]);
	q->qmp =
		qmp_open(t, pair[0], OPEN_MS, false, (struct qmp_handler){ on_event, on_ended, q, "vm" });
	CHECK(q->qmp);
}

static int not_read(struct task *t, void *arg)
{
	struct qemu *q = arg;
	int pair[2];
	(void)t;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	fd_close(&q->unread);
	q->unread = pair[0];
	return pair[1];
}

/* false: no answer. */
static bool answers(struct task *t, struct qemu *q)
{
	struct qmp_call c = { .command = "query-name", .ms = HANGS_MS };
	bool answered = qmp_call(t, q->qmp, &c) == 0;
	task_forgive(t);
	return answered;
}

static bool monitor(struct task *t, struct qemu *q, const char *line)
{
	struct qmp_call c = { .command = "human-monitor-command", .ms = HANGS_MS };
	c.arguments = json_pack("{s:s}", "command-line", line);
	bool answered = qmp_call(t, q->qmp, &c) == 0;
	task_forgive(t);
	return answered;
}

static int taken_and_forgotten(struct task *t, void *arg)
{
	(void)t, (void)arg;
	return open("/dev/null", O_WRONLY | O_CLOEXEC);
}

static void save_so(struct task *t, struct qemu *q, const char *oob, struct vmm_save v)
{
	v.arg = q;
	CHECK(save_begin(t, q->qmp, &q->saving, &q->process, oob, &v) == 0);
	CHECK(streq(v.method, "background-snapshot"));
}

/* Until the socket holds all that it takes: before that a page that somebody waits for is sent at once. */
static void await_full(int fd)
{
	int before = 0, now, same = 0;
	for (int i = 0; i < 1000 && same < 20; i++) {
		CHECK(ioctl(fd, FIONREAD, &now) == 0);
		same = now && now == before ? same + 1 : 0;
		before = now;
		usleep(10000);
	}
	CHECK(same == 20);
}

static void save(struct task *t, struct qemu *q, const char *oob)
{
	save_so(t, q, oob, (struct vmm_save){ .open = not_read });
	await_full(q->unread);
}

static void save_running(struct task *t, struct qemu *q, const char *oob)
{
	save_so(t, q, oob, (struct vmm_save){ .running = true, .open = taken_and_forgotten });
	CHECK(save_end(t, q->qmp, &q->saving, true) == 0);
}

/* QEMU stops the guest itself when its look is over.  Ours comes at that very moment, which is the worst. */
static void stop_at_the_worst(struct task *t, struct qemu *q, const char *oob)
{
	save_running(t, q, oob);
	int64_t took_us = q->saving.look_us;
	for (int i = 0; i < WORST; i++) {
		q->saving.look_us = 2 * (took_us + 6000 + i % 8 * 250);
		save_running(t, q, oob);
	}
}

/* ---- how fast it is ---- */

static void *read_all(void *arg)
{
	static char buffer[1 << 20];
	const int *fd = arg;
	while (read(*fd, buffer, sizeof buffer) > 0)
		;
	return NULL;
}

static int is_read(struct task *t, void *arg)
{
	static int ours;
	pthread_t reader;
	int pair[2];
	(void)t, (void)arg;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	ours = pair[0];
	CHECK(pthread_create(&reader, NULL, read_all, &ours) == 0 && pthread_detach(reader) == 0);
	return pair[1];
}

static json_int_t parameter(struct task *t, struct qemu *q, const char *name)
{
	struct qmp_call c = { .command = "query-migrate-parameters", .query = true };
	CHECK(qmp_call(t, q->qmp, &c) == 0);
	return json_integer_value(json_object_get(c.ret, name));
}

/* Nobody has asked QEMU to be slow.  The guest stands afterwards. */
static void nothing_slows_it_down(struct task *t, struct qemu *q, const char *oob)
{
	struct vmm_save v = { .running = true, .keep_stopped = true, .open = is_read };
	int64_t begin = clock_ms();
	CHECK(save_begin(t, q->qmp, &q->saving, &q->process, oob, &v) == 0);
	int took_ms = (int)(clock_ms() - begin), limited_ms = CONTENT_MIB * 1000 / USUAL_MIB_S;
	printf("%d MiB were sent in %d ms; QEMU's limit would make it %d ms\n", CONTENT_MIB,
	       took_ms, limited_ms);
	CHECK(streq(v.method, "stop-and-copy") && took_ms < limited_ms * 2 / 3);
	CHECK(parameter(t, q, "max-bandwidth") > (json_int_t)1 << 40);
	CHECK(parameter(t, q, "downtime-limit") < 300);
	CHECK(save_end(t, q->qmp, &q->saving, false) == 0);
}

int main(void)
{
	struct task *t = task_new(NULL, "save");
	struct qemu q;
	CHECK(!delay_scale("save-answer=0.2") &&
	      mkdtemp(dir)); /* a QEMU that hangs is given up sooner */
	const char *oob = str(t, "%s/oob.sock", dir), *firmware = str(t, "%s/busy.bin", dir),
		   *content = str(t, "%s/content", dir);
	qemu_start(t, &q, oob, firmware, content);
	CHECK(qmp_do(t, q.qmp, "cont", NULL) == 0 && qmp_do(t, q.qmp, "stop", NULL) == 0);

	save(t, &q, oob);
	CHECK(monitor(t, &q, HIGH) && answers(t, &q));
	CHECK(!monitor(t, &q, LOW) && !answers(t, &q)); /* it hangs */
	CHECK(save_end(t, q.qmp, &q.saving, true) == 0);
	CHECK(answers(t, &q));

	save(t, &q, oob); /* and once more, without a hang */
	CHECK(save_end(t, q.qmp, &q.saving, true) == 0);

	CHECK(qmp_do(t, q.qmp, "cont", NULL) == 0);
	stop_at_the_worst(t, &q, oob);
	nothing_slows_it_down(t, &q, oob);

	qmp_close(q.qmp);
	fd_close(&q.unread);
	kill(q.process.pid, SIGKILL);
	waitpid(q.process.pid, NULL, 0);
	unlink(oob);
	unlink(firmware);
	unlink(content);
	rmdir(dir);
	talloc_free(t);
	return 0;
}
