// SPDX-License-Identifier: Apache-2.0
/* test_vmm_qemu.c -- the QEMU driver with real QEMUs, under TCG.  Most of them boot nothing: disks
 * and monitor work all the same.  Some boot a guest of 97 bytes.
 *
 *     test_vmm_qemu              all of it
 *     test_vmm_qemu figures      how long things take, for 1, 4 and 16 disks */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/vmm.h"

#include "check.h"
#include "layer.h"

enum { NDISKS = 4, MAX_DISKS = 16, NOBODY = 65534 };

static bool is_root;

/* ---- a listener that can be waited for ---- */

struct heard {
	pthread_mutex_t lock;
	size_t n;
	struct {
		enum vmm_event event;
		char detail[32];
	} v[64];
};

static void hear(void *arg, enum vmm_event event, const char *detail)
{
	struct heard *h = arg;
	pthread_mutex_lock(&h->lock);
	CHECK(h->n < COUNT(h->v));
	h->v[h->n].event = event;
	snprintf(h->v[h->n++].detail, sizeof h->v->detail, "%s", detail);
	pthread_mutex_unlock(&h->lock);
}

/* How often the event was heard by now. */
static size_t times(struct heard *h, enum vmm_event event)
{
	size_t n = 0;
	pthread_mutex_lock(&h->lock);
	for (size_t i = 0; i < h->n; i++)
		n += h->v[i].event == event;
	pthread_mutex_unlock(&h->lock);
	return n;
}

static bool heard_within(struct heard *h, enum vmm_event event, int ms)
{
	for (int64_t end = clock_ms() + ms; clock_ms() < end; usleep(2000))
		if (times(h, event))
			return true;
	return false;
}

static struct heard *heard_new(struct task *t)
{
	struct heard *h = talloc_zero(t, struct heard);
	pthread_mutex_init(&h->lock, NULL);
	return h;
}

/* ---- a VM to be ---- */

struct place {
	const char *dir;
	struct vmm_config config;
	struct vmm_disk disks[MAX_DISKS];
	json_t *layers[MAX_DISKS];
};

static const char *file_of(struct task *t, struct place *p, const char *node)
{
	return str(t, "%s/%s.qcow2", p->dir, node);
}

static void image(struct task *t, struct place *p, const char *node, const char *below)
{
	const char *file = file_of(t, p, node);
	struct run r = {
		.argv = below ? RUN_ARGV("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F",
					 "qcow2", "-b", file_of(t, p, below), file, "64M")
			      : RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", file, "64M"),
		.in = -1,
		.out = -1,
		.timeout_ms = 20000
	};
	CHECK(run_ok(t, &r) == 0);
	CHECK(chmod(file, 0600) == 0);
}

static json_t *layer(struct task *t, struct place *p, const char *node, const char *below,
		     bool frozen)
{
	return qcow2_layer(t, node, file_of(t, p, node), below, frozen);
}

static const char *name(struct task *t, const char *what, size_t i)
{
	return str(t, "%s%zu", what, i);
}

/* n disks, each "top<i>" on a common "base". */
static struct place *place_new(struct task *t, size_t n)
{
	struct place *p = talloc_zero(t, struct place);
	char *dir = talloc_strdup(t, "/var/tmp/test_vmm_qemu.XXXXXX");
	CHECK(mkdtemp(dir));
	p->dir = dir;
	image(t, p, "base", NULL);
	for (size_t i = 0; i < n; i++) {
		const char *top = name(t, "top", i);
		image(t, p, top, "base");
		p->layers[i] = json_own(t, json_array());
		json_array_append(p->layers[i], layer(t, p, "base", NULL, true));
		json_array_append(p->layers[i], layer(t, p, top, "base", false));
		p->disks[i] = (struct vmm_disk){ .id = name(t, "disk", i),
						 .position = (unsigned)i,
						 .serial = "a \"serial\", 20 ch",
						 .layers = p->layers[i],
						 .bootindex = (int)i + 1 };
	}
	p->config = (struct vmm_config){ .uuid = uuid_new(t),
					 .name = "a, b=c",
					 .dir = dir,
					 .memory = 64 << 20,
					 .vcpus = 1,
					 .accel = "tcg",
					 .uid = NOBODY,
					 .gid = NOBODY,
					 .kernel = -1,
					 .ramdisk = -1,
					 .image = -1,
					 .common = NOBODY,
					 .cmdline = "",
					 .ndisks = n,
					 .disks = p->disks };
	return p;
}

static void place_remove(struct task *t, struct place *p)
{
	struct run r = {
		.argv = RUN_ARGV("rm", "-rf", p->dir), .in = -1, .out = -1, .timeout_ms = 20000
	};
	CHECK(run_ok(t, &r) == 0);
}

static struct vmm *start(struct task *t, struct place *p, struct heard *h)
{
	struct vmm *vm = vmm_qemu.start(t, &p->config, (struct vmm_listener){ hear, h, "vm" });
	if (!vm)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(vm);
	return vm;
}

static pid_t pid_of(struct task *t, struct place *p)
{
	return (pid_t)strtol(file_read(t, str(t, "%s/pid", p->dir), 200), NULL, 10);
}

/* A line of /proc/PID/FILE, without its beginning; "" when there is none. */
static const char *proc_line(struct task *t, pid_t pid, const char *file, const char *begins)
{
	char line[1024];
	FILE *f = fopen(str(t, "/proc/%d/%s", (int)pid, file), "re");
	const char *found = "";
	while (f && fgets(line, sizeof line, f))
		if (starts_with(line, begins)) {
			line[strcspn(line, "\n")] = 0;
			found = talloc_strdup(t, line + strlen(begins));
		}
	if (f)
		fclose(f);
	return found;
}

/* Flags of the descriptors under which the process has the file open: how many of them are
 * writable, how many not, how many not direct. */
struct opened {
	int writable, readable, buffered;
};

static struct opened opened(struct task *t, pid_t pid, const char *file)
{
	struct opened o = { 0 };
	const char *folder = str(t, "/proc/%d/fd", (int)pid);
	DIR *d = opendir(folder);
	struct dirent *e;
	CHECK(d);
	while ((e = readdir(d))) {
		char to[1024] = "";
		if (readlink(str(t, "%s/%s", folder, e->d_name), to, sizeof to - 1) < 0 ||
		    !streq(to, file))
			continue;
		long flags = strtol(proc_line(t, pid, str(t, "fdinfo/%s", e->d_name), "flags:\t"),
				    NULL, 8);
		o.writable += (flags & O_ACCMODE) == O_RDWR;
		o.readable += (flags & O_ACCMODE) == O_RDONLY;
		o.buffered += !(flags & O_DIRECT);
	}
	closedir(d);
	return o;
}

/* Whether another program may use the image, to write or to read. */
static bool locked(struct task *t, const char *file, bool write)
{
	struct run r = { .argv = RUN_ARGV("qemu-io", write ? "-fqcow2" : "-rfqcow2", "-c",
					  "read 0 512", file),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 20000 };
	CHECK(run(t, &r) == 0);
	return r.ret_status != 0;
}

/* Overlays "over<i>" with the files made. */
static struct vmm_switch *switches(struct task *t, struct place *p, size_t n, const char *below,
				   const char *over)
{
	struct vmm_switch *s = talloc_zero_array(t, struct vmm_switch, n);
	for (size_t i = 0; i < n; i++) {
		const char *low = name(t, below, i), *high = name(t, over, i);
		image(t, p, high, low);
		s[i] = (struct vmm_switch){ name(t, "disk", i), low,
					    layer(t, p, high, low, false) };
	}
	return s;
}

static void tops_are(struct task *t, struct vmm *vm, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++) {
		const char *top = "";
		CHECK(vmm_qemu.top(t, vm, name(t, "disk", i), &top) == 0);
		CHECK(streq(top, name(t, what, i)));
	}
}

static void fails(struct task *t, int result)
{
	CHECK(result < 0 && t->code != NO_ERROR);
	task_forgive(t);
}

/* ---- the tests ---- */

/* The process has no rights, and nothing of ours but what it was given. */
static void confined(struct task *t, struct place *p, struct vmm *vm)
{
	(void)vm;
	pid_t pid = pid_of(t, p);
	const char *uids = str(t, "%d\t%d\t%d\t%d", NOBODY, NOBODY, NOBODY, NOBODY);
	CHECK(!is_root || streq(proc_line(t, pid, "status", "Uid:\t"), uids));
	CHECK(!is_root || streq(proc_line(t, pid, "status", "Gid:\t"), uids));
	CHECK(streq(proc_line(t, pid, "status", "Groups:\t"), str(t, "%d ", NOBODY)) || !is_root);
	CHECK(streq(proc_line(t, pid, "status", "Seccomp:\t"), "2"));
	CHECK(streq(proc_line(t, pid, "status", "NoNewPrivs:\t"), "1"));
	CHECK(!streq(proc_line(t, pid, "status", "PPid:\t"), str(t, "%d", (int)getpid())));
	CHECK(opened(t, pid, "/etc/hostname").readable == 0);

	struct stat st;
	CHECK(stat(str(t, "%s/serial.log", p->dir), &st) == 0 && (st.st_mode & 0777) == 0600);
	CHECK(stat(str(t, "%s/qmp.sock", p->dir), &st) == 0 && (st.st_mode & 0777) == 0600);
	CHECK(stat(str(t, "%s/qemu.log", p->dir), &st) == 0 && (st.st_mode & 0777) == 0600);
}

/* Layers are opened past the page cache; a shared one once; frozen ones read-only. */
static void layers_at_start(struct task *t, struct place *p, struct vmm *vm)
{
	pid_t pid = pid_of(t, p);
	struct opened base = opened(t, pid, file_of(t, p, "base"));
	struct opened top = opened(t, pid, file_of(t, p, "top0"));
	CHECK(base.writable == 0 && base.readable == 1 && base.buffered == 0);
	CHECK(top.writable == 1 && top.readable == 1 && top.buffered == 0);
	CHECK(locked(t, file_of(t, p, "top0"), true) && locked(t, file_of(t, p, "top0"), false));
	CHECK(locked(t, file_of(t, p, "base"), true) && !locked(t, file_of(t, p, "base"), false));
	tops_are(t, vm, NDISKS, "top");
}

/* All disks get their overlays, and the old tops can be read by others, written by nobody. */
static void all_disks_switch(struct task *t, struct place *p, struct vmm *vm)
{
	struct vmm_switch *s = switches(t, p, NDISKS, "top", "over");
	double ms = -1;
	CHECK(vmm_qemu.prepare(t, vm, NDISKS, s) == 0);
	tops_are(t, vm, NDISKS, "top");
	CHECK(vmm_qemu.switch_disks(t, vm, NDISKS, s, &ms) == 0);
	vmm_qemu.tidy(t, vm, NDISKS, s);
	CHECK(ms > 0 && ms < 2000);
	tops_are(t, vm, NDISKS, "over");

	pid_t pid = pid_of(t, p);
	struct opened old = opened(t, pid, file_of(t, p, "top3"));
	struct opened new = opened(t, pid, file_of(t, p, "over3"));
	CHECK(old.writable == 0 && old.readable == 1);
	CHECK(new.writable == 1 && new.buffered == 0);
	CHECK(locked(t, file_of(t, p, "top3"), true) && !locked(t, file_of(t, p, "top3"), false));
	CHECK(locked(t, file_of(t, p, "over3"), true));
}

/* A second overlay that cannot be opened takes the first one back. */
static void prepare_all_or_none(struct task *t, struct place *p, struct vmm *vm)
{
	struct vmm_switch *s = switches(t, p, NDISKS, "over", "bad");
	CHECK(truncate(file_of(t, p, "bad2"), 0) == 0);
	fails(t, vmm_qemu.prepare(t, vm, NDISKS, s));
	CHECK(unlink(file_of(t, p, "bad2")) == 0);
	fails(t, vmm_qemu.prepare(t, vm, NDISKS, s));
	for (size_t i = 0; i < NDISKS; i++) {
		struct opened o = opened(t, pid_of(t, p), file_of(t, p, name(t, "bad", i)));
		CHECK(o.writable == 0 && o.readable == 0);
	}
	CHECK(vmm_qemu.prepare(t, vm, 2, s) == 0);
	CHECK(vmm_qemu.forget(t, vm, "bad0") == 0 && vmm_qemu.forget(t, vm, "bad1") == 0);
	CHECK(vmm_qemu.forget(t, vm, "bad1") == 0);
	struct opened o = opened(t, pid_of(t, p), file_of(t, p, "bad1"));
	CHECK(o.writable == 0 && o.readable == 0);
	tops_are(t, vm, NDISKS, "over");
}

/* One disk whose top is another node than said: no disk switches. */
static void switch_all_or_none(struct task *t, struct place *p, struct vmm *vm)
{
	struct vmm_switch *s = switches(t, p, NDISKS, "over", "next");
	double ms = -1;
	CHECK(vmm_qemu.prepare(t, vm, NDISKS, s) == 0);
	s[2].below = "nobody";
	fails(t, vmm_qemu.switch_disks(t, vm, NDISKS, s, &ms));
	CHECK(ms < 0);
	tops_are(t, vm, NDISKS, "over");
	s[2].below = "over2";
	CHECK(vmm_qemu.switch_disks(t, vm, NDISKS, s, &ms) == 0);
	vmm_qemu.tidy(t, vm, NDISKS, s);
	tops_are(t, vm, NDISKS, "next");
	fails(t, vmm_qemu.forget(t, vm, "next1"));
	fails(t, vmm_qemu.forget(t, vm, "over1"));
	tops_are(t, vm, NDISKS, "next");
}

static void has_status(struct task *t, struct vmm *vm, enum vmm_status wanted)
{
	enum vmm_status s;
	CHECK(vmm_qemu.status(t, vm, &s) == 0 && s == wanted);
}

static void pauses(struct task *t, struct vmm *vm, struct heard *h)
{
	has_status(t, vm, VMM_RUNNING);
	CHECK(vmm_qemu.pause(t, vm) == 0 && vmm_qemu.pause(t, vm) == 0);
	CHECK(heard_within(h, VMM_STOPPED, 1000));
	has_status(t, vm, VMM_PAUSED);
	CHECK(vmm_qemu.resume(t, vm) == 0);
	CHECK(heard_within(h, VMM_RESUMED, 1000));
	has_status(t, vm, VMM_RUNNING);
	CHECK(vmm_qemu.reset(t, vm) == 0 && vmm_qemu.shutdown(t, vm) == 0);
	has_status(t, vm, VMM_RUNNING);
	CHECK(times(h, VMM_STOPPED) == 1 && times(h, VMM_REBOOTED) == 0);
}

static struct vmm *adopted(struct task *t, struct place *p, struct vmm *vm, struct heard *h)
{
	struct vmm_listener l = { hear, h, "vm" };
	vmm_qemu.release(vm);
	CHECK(!vmm_qemu.adopt(t, uuid_new(t), p->dir, l) && !t->code);
	vm = vmm_qemu.adopt(t, p->config.uuid, p->dir, l);
	CHECK(vm);
	tops_are(t, vm, NDISKS, "next");
	has_status(t, vm, VMM_RUNNING);
	return vm;
}

/* The disks go on after a restart of ours: what QEMU keeps ready is found again. */
static void switch_after_adoption(struct task *t, struct place *p, struct vmm *vm)
{
	struct vmm_switch *s = switches(t, p, NDISKS, "next", "last");
	double ms;
	CHECK(vmm_qemu.prepare(t, vm, NDISKS, s) == 0);
	CHECK(vmm_qemu.switch_disks(t, vm, NDISKS, s, &ms) == 0);
	vmm_qemu.tidy(t, vm, NDISKS, s);
	tops_are(t, vm, NDISKS, "last");
	CHECK(opened(t, pid_of(t, p), file_of(t, p, "next0")).writable == 0);
}

static void killed(struct task *t, struct place *p, struct vmm *vm, struct heard *h)
{
	CHECK(kill(pid_of(t, p), SIGKILL) == 0);
	CHECK(heard_within(h, VMM_EXITED, 1000));
	fails(t, vmm_qemu.pause(t, vm));
	CHECK(vmm_qemu.stop(t, vm) == 0);
	vmm_qemu.release(vm);
	CHECK(times(h, VMM_EXITED) == 1);
	CHECK(!vmm_qemu.adopt(t, p->config.uuid, p->dir, (struct vmm_listener){ hear, h, "vm" }));
	CHECK(!t->code);
	CHECK(vmm_qemu.kill(t, p->config.uuid, p->dir) == 0);
}

/* The disks' layers as they are on disk now. */
static void starts_again(struct task *t, struct place *p)
{
	struct heard *h = heard_new(t);
	for (size_t i = 0; i < NDISKS; i++) {
		json_t *l = p->layers[i];
		const char *const tops[] = { "over", "next", "last" };
		json_object_set_new(json_array_get(l, 1), "read-only", json_true());
		const char *below = name(t, "top", i);
		for (size_t k = 0; k < COUNT(tops); k++) {
			const char *node = name(t, tops[k], i);
			json_array_append(l, layer(t, p, node, below, k + 1 < COUNT(tops)));
			below = node;
		}
	}
	p->config.paused = true;
	p->disks[1].read_only = true;
	struct vmm *vm = start(t, p, h);
	has_status(t, vm, VMM_PAUSED);
	tops_are(t, vm, NDISKS, "last");
	CHECK(opened(t, pid_of(t, p), file_of(t, p, "last0")).writable == 1);
	CHECK(opened(t, pid_of(t, p), file_of(t, p, "last1")).writable == 0);
	CHECK(vmm_qemu.resume(t, vm) == 0);
	has_status(t, vm, VMM_RUNNING);
	pid_t pid = pid_of(t, p);
	CHECK(vmm_qemu.stop(t, vm) == 0 && !*proc_line(t, pid, "status", "VmRSS:"));
	CHECK(vmm_qemu.stop(t, vm) == 0);
	CHECK(heard_within(h, VMM_EXITED, 1000));
	vmm_qemu.release(vm);
	CHECK(times(h, VMM_STOPPED) == 0);
}

static void many_disks(struct task *t)
{
	struct place *p = place_new(t, NDISKS);
	struct heard *h = heard_new(t);
	FD_SCOPE int ours = open("/etc/hostname", O_RDONLY); /* to be inherited, if by mistake */
	CHECK(ours >= 0);
	struct vmm_nic nic = { .id = "nic0", .mac = "02:00:00:00:00:01", .tap = -1 };
	p->config.nnics = 1;
	p->config.nics = &nic;
	struct vmm *vm = start(t, p, h);
	confined(t, p, vm);
	layers_at_start(t, p, vm);
	all_disks_switch(t, p, vm);
	prepare_all_or_none(t, p, vm);
	switch_all_or_none(t, p, vm);
	pauses(t, vm, h);
	vm = adopted(t, p, vm, h);
	switch_after_adoption(t, p, vm);
	killed(t, p, vm, h);
	starts_again(t, p);
	place_remove(t, p);
}

/* No process is left, the listener hears nothing, and QEMU's own words are in the error. */
static void start_fails(struct task *t)
{
	struct place *p = place_new(t, 2);
	struct heard *h = heard_new(t);
	struct vmm_listener l = { hear, h, "vm" };
	CHECK(truncate(file_of(t, p, "top1"), 0) == 0);
	CHECK(!vmm_qemu.start(t, &p->config, l));
	CHECK(strstr(task_error(t), "-blockdev") && strstr(task_error(t), "Image is not in qcow2"));
	task_forgive(t);
	CHECK(kill(pid_of(t, p), 0) < 0 || !*proc_line(t, pid_of(t, p), "status", "VmRSS:"));

	CHECK(unlink(file_of(t, p, "top1")) == 0);
	CHECK(!vmm_qemu.start(t, &p->config, l));
	CHECK(strstr(task_error(t), "top1.qcow2: No such file"));
	task_forgive(t);
	CHECK(!vmm_qemu.adopt(t, p->config.uuid, p->dir, l) && !t->code);
	CHECK(h->n == 0);
	place_remove(t, p);
}

/* One that is there but says nothing is not adopted, nor taken for dead; it can be ended. */
static void hangs(struct task *t)
{
	struct place *p = place_new(t, 1);
	struct heard *h = heard_new(t);
	struct vmm *vm = start(t, p, h);
	pid_t pid = pid_of(t, p);
	CHECK(kill(pid, SIGSTOP) == 0);
	vmm_qemu.release(vm);
	t->deadline_ms = clock_ms() + 1000; /* or it were 10 s */
	CHECK(!vmm_qemu.adopt(t, p->config.uuid, p->dir, (struct vmm_listener){ hear, h, "vm" }));
	CHECK(t->code);
	task_forgive(t);
	t->deadline_ms = 0;
	CHECK(vmm_qemu.kill(t, p->config.uuid, p->dir) == 0);
	CHECK(!*proc_line(t, pid, "status", "VmRSS:"));
	CHECK(h->n == 0);
	place_remove(t, p);
}

/* Frozen layers below one top, as far as anybody will get. */
static void deep(struct task *t)
{
	enum { DEPTH = 200 };
	struct place *p = place_new(t, 2);
	const char *below = "base";
	for (size_t k = 0; k < DEPTH; k++) {
		const char *node = name(t, "deep", k);
		image(t, p, node, below);
		json_t *l = layer(t, p, node, below, true);
		for (size_t i = 0; i < 2; i++)
			json_array_insert(p->layers[i], k + 1, l);
		below = node;
	}
	for (size_t i = 0; i < 2; i++)
		json_object_set_new(json_array_get(p->layers[i], DEPTH + 1), "backing",
				    json_string(below));
	struct heard *h = heard_new(t);
	struct vmm *vm = start(t, p, h);
	struct vmm_switch *s = switches(t, p, 2, "top", "over");
	double ms;
	CHECK(vmm_qemu.prepare(t, vm, 2, s) == 0);
	CHECK(vmm_qemu.switch_disks(t, vm, 2, s, &ms) == 0);
	vmm_qemu.tidy(t, vm, 2, s);
	printf("depth %d, 2 disks: transaction %.1f ms\n", DEPTH, ms);
	fflush(stdout);
	CHECK(vmm_qemu.stop(t, vm) == 0);
	vmm_qemu.release(vm);
	place_remove(t, p);
}

/* ---- with a guest ---- */

/* A kernel for the real mode of the Linux boot protocol.  It says U, then waits for a letter:
 * w: writes 512 W to the start of the first disk, and says W or E; r: resets; o: powers off; p:
 * panics. */
static const unsigned char guest[] = {
	0xfb,                               /*         sti                                     */
	0x0e, 0x1f,                         /*         push %cs; pop %ds                       */
	0xb0, 'U',                          /*         mov $'U', %al                           */
	0xba, 0xf8, 0x03,                   /* put:    mov $0x3f8, %dx     the serial port     */
	0xee,                               /*         out %al, (%dx)                          */
	0xf4,                               /* wait:   hlt                 until a timer's tick */
	0xba, 0xfd, 0x03,                   /*         mov $0x3fd, %dx                         */
	0xec,                               /*         in (%dx), %al                           */
	0xa8, 0x01,                         /*         test $1, %al        anything typed?     */
	0x74, 0xf7,                         /*         jz wait                                 */
	0xba, 0xf8, 0x03,                   /*         mov $0x3f8, %dx                         */
	0xec,                               /*         in (%dx), %al                           */
	0x3c, 'r',  0x74, 0x1e,             /*         cmp $'r', %al; je reset                 */
	0x3c, 'o',  0x74, 0x22,             /*         cmp $'o', %al; je off                   */
	0x3c, 'p',  0x74, 0x27,             /*         cmp $'p', %al; je panic                 */
	0x3c, 'w',  0x75, 0xe3,             /*         cmp $'w', %al; jne wait                 */
	0xbe, 0xc1, 0x00,                   /*         mov $packet, %si                        */
	0xb8, 0x00, 0x43,                   /*         mov $0x4300, %ax                        */
	0xb2, 0x80,                         /*         mov $0x80, %dl                          */
	0xcd, 0x13,                         /*         int $0x13           the firmware writes */
	0xb0, 'W',  0x73, 0xd1,             /*         mov $'W', %al; jnc put                  */
	0xb0, 'E',  0xeb, 0xcd,             /*         mov $'E', %al; jmp put                  */
	0xba, 0xf9, 0x0c,                   /* reset:  mov $0xcf9, %dx                         */
	0xb0, 0x06, 0xee,                   /*         mov $6, %al; out %al, (%dx)             */
	0xeb, 0xc9,                         /*         jmp wait                                */
	0xba, 0x04, 0x06,                   /* off:    mov $0x604, %dx     ACPI's PM1a control */
	0xb8, 0x00, 0x20, 0xef,             /*         mov $0x2000, %ax; out %ax, (%dx)        */
	0xeb, 0xc0,                         /*         jmp wait                                */
	0xba, 0x05, 0x05,                   /* panic:  mov $0x505, %dx     pvpanic             */
	0xb0, 0x01, 0xee,                   /*         mov $1, %al; out %al, (%dx)             */
	0xeb, 0xb8,                         /*         jmp wait                                */
	0x10, 0,    1,    0,                /* packet: one sector                              */
	0x90, 0x01, 0x20, 0x10,             /*         from 0x1020:0x190                       */
	0,    0,    0,    0,    0, 0, 0, 0, /*         to block 0                              */
};

/* 0600 and ours, so that QEMU's user may not open it. */
static int kernel(struct task *t, struct place *p)
{
	unsigned char k[4096] = { [0x1f1] = 4,    [0x1fe] = 0x55, [0x1ff] = 0xaa, [0x200] = 0xeb,
				  [0x201] = 0x6e, /* jmp 0x270 */
				  [0x202] = 'H',  [0x203] = 'd',  [0x204] = 'r',  [0x205] = 'S',
				  [0x206] = 3,    [0x207] = 2,    [0x211] = 1 };
	memcpy(k + 0x270, guest, sizeof guest);
	memset(k + 0x390, 'W', 512);
	int fd = open(str(t, "%s/kernel", p->dir), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && io_write(t, fd, k, sizeof k, -1) == 0);
	return fd;
}

/* Types a letter, then the guest says another one. */
static void dialogue(struct task *t, int serial, char typed, char answer)
{
	char c = 0;
	if (typed)
		CHECK(io_write(t, serial, &typed, 1, 1000) == 0);
	if (answer)
		CHECK(io_read(t, serial, &c, 1, 20000) == 1 && c == answer);
}

/* Paused at first, so that its first letter is not missed. */
static struct vmm *boot(struct task *t, struct place *p, struct heard *h, int *serial)
{
	FD_SCOPE int k = kernel(t, p);
	p->config.kernel = k;
	p->config.cmdline = "a, b=\"c\"";
	p->config.paused = true;
	struct vmm *vm = start(t, p, h);
	CHECK(vmm_qemu.serial(t, vm, serial) == 0);
	CHECK(vmm_qemu.resume(t, vm) == 0);
	dialogue(t, *serial, 0, 'U');
	return vm;
}

static bool holds(struct task *t, struct place *p, const char *node, const char *pattern)
{
	struct run r = { .argv = RUN_ARGV("qemu-io", "-rfqcow2", "-c",
					  str(t, "read -P %s 0 512", pattern), file_of(t, p, node)),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 20000 };
	CHECK(run(t, &r) == 0);
	return r.ret_status == 0 && !strstr(r.ret_out, "verification failed");
}

/* It boots from descriptors, boots again after its own reset, what it writes after a switch is
 * in the overlay only, and its power-off is the end. */
static void guest_lives(struct task *t)
{
	struct place *p = place_new(t, 1);
	struct heard *h = heard_new(t);
	FD_SCOPE int serial = -1;
	struct vmm *vm = boot(t, p, h, &serial);
	dialogue(t, serial, 'r', 'U');
	CHECK(times(h, VMM_REBOOTED) >= 1); /* the firmware adds one of its own */

	struct vmm_switch *s = switches(t, p, 1, "top", "over");
	double ms;
	CHECK(vmm_qemu.prepare(t, vm, 1, s) == 0);
	CHECK(vmm_qemu.switch_disks(t, vm, 1, s, &ms) == 0);
	vmm_qemu.tidy(t, vm, 1, s);
	dialogue(t, serial, 'w', 'W');
	dialogue(t, serial, 'o', 0);
	CHECK(heard_within(h, VMM_EXITED, 2000));
	CHECK(streq(h->v[h->n - 1].detail, "shutdown"));
	vmm_qemu.release(vm);
	CHECK(holds(t, p, "over0", "0x57") && holds(t, p, "top0", "0"));
	CHECK(streq(file_read(t, str(t, "%s/serial.log", p->dir), 100), "UUW"));
	place_remove(t, p);
}

/* A panic is told, and ends the process. */
static void guest_panics(struct task *t)
{
	struct place *p = place_new(t, 1);
	struct heard *h = heard_new(t);
	FD_SCOPE int serial = -1;
	struct vmm *vm = boot(t, p, h, &serial);
	dialogue(t, serial, 'p', 0);
	CHECK(heard_within(h, VMM_EXITED, 20000));
	vmm_qemu.release(vm);
	CHECK(times(h, VMM_CRASHED) == 1 && streq(h->v[h->n - 1].detail, "crash"));
	place_remove(t, p);
}

/* Takes all of the room on the file system at dir. */
static void fill(struct task *t, const char *dir)
{
	static const char zeros[65536];
	FD_SCOPE int fd = open(str(t, "%s/filler", dir), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	for (size_t n = sizeof zeros; n >= 512; n /= 2)
		while (write(fd, zeros, n) > 0)
			;
}

/* A full storage pauses the guest and says which disk's; with room again, the same write works. */
static void storage_full(struct task *t)
{
	struct place *p = place_new(t, 1);
	struct heard *h = heard_new(t);
	const char *small = str(t, "%s/small", p->dir);
	if (mkdir(small, 0700) < 0 || mount("none", small, "tmpfs", 0, "size=1m") < 0) {
		printf("a full storage was not tried: no small file system can be mounted\n");
		place_remove(t, p);
		return;
	}
	FD_SCOPE int serial = -1;
	struct vmm *vm = boot(t, p, h, &serial);
	image(t, p, "small/over0", "top0");
	json_t *over = layer(t, p, "small/over0", "top0", false);
	json_object_set_new(over, "node-name", json_string("over0"));
	struct vmm_switch s = { "disk0", "top0", over };
	double ms;
	CHECK(vmm_qemu.prepare(t, vm, 1, &s) == 0);
	CHECK(vmm_qemu.switch_disks(t, vm, 1, &s, &ms) == 0);
	vmm_qemu.tidy(t, vm, 1, &s);
	fill(t, small);
	dialogue(t, serial, 'w', 0);
	CHECK(heard_within(h, VMM_NOSPACE, 20000));
	has_status(t, vm, VMM_IO_ERROR);
	CHECK(streq(h->v[h->n - 1].detail, "disk0"));
	CHECK(unlink(str(t, "%s/filler", small)) == 0);
	CHECK(vmm_qemu.resume(t, vm) == 0);
	dialogue(t, serial, 0, 'W');
	has_status(t, vm, VMM_RUNNING);
	CHECK(times(h, VMM_STOPPED) == 0 && times(h, VMM_RESUMED) == 2);
	CHECK(vmm_qemu.stop(t, vm) == 0);
	vmm_qemu.release(vm);
	CHECK(umount(small) == 0);
	place_remove(t, p);
}

/* ---- figures ---- */

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void figures(struct task *t, size_t n)
{
	enum { ROUNDS = 9 };
	struct place *p = place_new(t, n);
	struct heard *h = heard_new(t);
	int64_t before = clock_ms();
	struct vmm *vm = start(t, p, h);
	int64_t started = clock_ms() - before;
	const char *below = "top";
	double ms[ROUNDS], prepare = 0;
	for (size_t r = 0; r < ROUNDS; r++) {
		const char *over = str(t, "r%zu-", r);
		struct vmm_switch *s = switches(t, p, n, below, over);
		before = clock_ms();
		CHECK(vmm_qemu.prepare(t, vm, n, s) == 0);
		prepare += (double)(clock_ms() - before) / ROUNDS;
		CHECK(vmm_qemu.switch_disks(t, vm, n, s, &ms[r]) == 0);
		vmm_qemu.tidy(t, vm, n, s);
		below = over;
	}
	before = clock_ms();
	CHECK(vmm_qemu.stop(t, vm) == 0);
	int64_t stopped = clock_ms() - before;
	vmm_qemu.release(vm);
	qsort(ms, ROUNDS, sizeof *ms, by_size);
	printf("%2zu disks: start %d ms, prepare %.1f ms, transaction median %.1f ms, longest %.1f "
	       "ms, stop %d ms\n",
	       n, (int)started, prepare, ms[ROUNDS / 2], ms[ROUNDS - 1], (int)stopped);
	place_remove(t, p);
}

int main(int argc, char **argv)
{
	struct task *t = task_new(NULL, "test");
	struct run r = { .argv = RUN_ARGV("qemu-system-x86_64", "--version"),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 20000 };
	if (run(t, &r) < 0 || r.ret_status != 0) {
		printf("qemu-system-x86_64 is not installed\n");
		return 77;
	}
	is_root = geteuid() == 0;
	if (argc > 1 && streq(argv[1], "figures")) {
		const size_t disks[] = { 1, 4, 16 };
		for (size_t i = 0; i < COUNT(disks); i++)
			figures(t, disks[i]);
	} else {
		many_disks(t);
		start_fails(t);
		hangs(t);
		deep(t);
		guest_lives(t);
		guest_panics(t);
		storage_full(t);
	}
	talloc_free(t);
	return 0;
}
