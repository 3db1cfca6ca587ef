// SPDX-License-Identifier: Apache-2.0
/* test_save.c -- a save whose receiver does not read, and in which QEMU's main loop hangs: it is cut, and QEMU is what
 * it was before.
 *
 * The main loop is made to wait for a page that is write protected as a device does that writes to it: by fw_cfg's
 * DMA, to which the monitor gives an address (QEMU: docs/specs/fw_cfg.rst). */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/process.h"
#include "vmm/qmp.h"
#include "vmm/save.h"

#include "check.h"

enum { OPEN_MS = 30000, HANGS_MS = 2000, UNREADABLE = 126 };
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

static void run_qemu(int monitor, const char *oob)
{
	char qmp[64], path[128];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(qmp, sizeof qmp, "socket,id=qmp,fd=%d", dup(monitor));
	snprintf(path, sizeof path, "socket,id=oob,path=%s,server=on,wait=off", oob);
	execlp("qemu-system-x86_64", "qemu", "-accel", "tcg", "-M", "q35", "-m", "256",
	       "-nodefaults", "-display", "none", "-S", "-chardev", qmp, "-mon",
	       "chardev=qmp,mode=control", "-chardev", path, "-mon", "chardev=oob,mode=control",
	       (char *)NULL);
	_exit(UNREADABLE);
}

static void qemu_start(struct task *t, struct qemu *q, const char *oob)
{
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	*q = (struct qemu){ .process.pid = fork(), .process.pidfd = -1, .unread = -1 };
	if (q->process.pid == 0)
		run_qemu(pair[1], oob);
	close(pair[1]);
	q->qmp =
		qmp_open(t, pair[0], OPEN_MS, false, (struct qmp_handler){ on_event, on_ended, q });
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

static void save(struct task *t, struct qemu *q, const char *oob)
{
	struct vmm_save v = { .open = not_read, .arg = q };
	CHECK(save_begin(t, q->qmp, &q->saving, &q->process, oob, &v) == 0);
	CHECK(streq(v.method, "background-snapshot"));
}

int main(void)
{
	struct task *t = task_new(NULL, "save");
	struct qemu q;
	CHECK(mkdtemp(dir));
	const char *oob = str(t, "%s/oob.sock", dir);
	qemu_start(t, &q, oob);
	CHECK(qmp_do(t, q.qmp, "cont", NULL) == 0 && qmp_do(t, q.qmp, "stop", NULL) == 0);

	save(t, &q, oob);
	CHECK(monitor(t, &q, HIGH) && answers(t, &q));
	CHECK(!monitor(t, &q, LOW) && !answers(t, &q)); /* it hangs */
	CHECK(save_end(t, q.qmp, &q.saving, true) == 0);
	CHECK(answers(t, &q));

	save(t, &q, oob); /* and once more, without a hang */
	CHECK(save_end(t, q.qmp, &q.saving, true) == 0);

	qmp_close(q.qmp);
	fd_close(&q.unread);
	kill(q.process.pid, SIGKILL);
	waitpid(q.process.pid, NULL, 0);
	unlink(oob);
	rmdir(dir);
	talloc_free(t);
	return 0;
}
