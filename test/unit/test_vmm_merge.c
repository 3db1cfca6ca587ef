// SPDX-License-Identifier: Apache-2.0
/* test_vmm_merge.c -- layers that become one in real QEMUs, under TCG, without a guest.
 *
 *     l0 <- l1 <- l2 <- l3 <- l4      each writes its own pattern, over a part of the one below
 *
 * QEMU is killed right after each merge, and the files have to show what they did before.
 *
 *     test_vmm_merge             all of it
 *     test_vmm_merge figures     with a guest that writes, of $GUEST: how much it does meanwhile */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/crash.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/vmm.h"

#include "check.h"
#include "layer.h"
#include "rival.h"

enum { LAYERS = 5, NOBODY = 65534, MIB = 1 << 20 };

static const struct vmm_driver *const d = &vmm_qemu;

/* ---- files ---- */

struct place {
	const char *dir;
	struct vmm_config config;
	struct vmm_disk disk;
	json_t *layers;
	struct vmm *vm;
	pid_t pid;
};

static const char *file_of(struct task *t, struct place *p, const char *node)
{
	return str(t, "%s/%s", p->dir, node);
}

static const char *does(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 60000 };
	if (run_ok(t, &r) < 0)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(!t->code);
	return r.ret_out;
}

#define DOES(t, ...) does(t, RUN_ARGV(__VA_ARGS__))

static void image(struct task *t, struct place *p, const char *node, const char *below)
{
	const char *file = file_of(t, p, node);
	if (below)
		DOES(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below,
		     file, "256M");
	else
		DOES(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "256M");
	CHECK(chmod(file, 0600) == 0);
}

static json_t *layer(struct task *t, struct place *p, const char *node, const char *below,
		     bool frozen)
{
	return qcow2_layer(t, node, file_of(t, p, node), below, frozen);
}

/* The disk's layers as they are listed, separated by spaces. */
static json_t *chain(struct task *t, struct place *p, const char *nodes)
{
	struct list names = list_split(t, nodes, ' ');
	json_t *layers = json_own(t, json_array());
	for (size_t i = 0; i < names.n; i++)
		json_array_append(layers, layer(t, p, names.v[i], i ? names.v[i - 1] : NULL,
						i + 1 < names.n));
	return layers;
}

static void fill(struct task *t, struct place *p, const char *node, int pattern, int at, int mib)
{
	DOES(t, "qemu-io", "-f", "qcow2", "-c", str(t, "write -P %d %dM %dM", pattern, at, mib),
	     file_of(t, p, node));
}

static void hear(void *arg, enum vmm_event event, const char *detail)
{
	(void)arg, (void)event, (void)detail;
}

static void up_again(struct task *t, struct place *p)
{
	p->vm = d->start(t, &p->config, (struct vmm_listener){ hear, NULL, "vm" });
	if (!p->vm)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(p->vm);
	p->pid = (pid_t)strtol(file_read(t, file_of(t, p, "pid"), 200), NULL, 10);
}

/* `ref` is what the disk shows. */
static struct place *place_new(struct task *t)
{
	struct place *p = talloc_zero(t, struct place);
	char *dir = talloc_strdup(t, "/var/tmp/test_vmm_merge.XXXXXX");
	CHECK(mkdtemp(dir));
	p->dir = dir;
	for (int i = 0; i < LAYERS; i++) {
		const char *node = str(t, "l%d", i);
		image(t, p, node, i ? str(t, "l%d", i - 1) : NULL);
		fill(t, p, node, i + 1, 8 + 24 * i, 64);
	}
	DOES(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file_of(t, p, "l4"),
	     file_of(t, p, "ref"));
	p->layers = chain(t, p, "l0 l1 l2 l3 l4");
	p->disk = (struct vmm_disk){
		.id = "disk0", .serial = "s", .layers = p->layers, .bootindex = 1
	};
	p->config = (struct vmm_config){ .uuid = uuid_new(t),
					 .name = "n",
					 .dir = dir,
					 .memory = 64 << 20,
					 .vcpus = 1,
					 .accel = "tcg",
					 .uid = NOBODY,
					 .gid = NOBODY,
					 .common = NOBODY,
					 .kernel = -1,
					 .ramdisk = -1,
					 .image = -1,
					 .cmdline = "",
					 .ndisks = 1,
					 .disks = &p->disk };
	up_again(t, p);
	return p;
}

static bool shows(struct task *t, struct place *p, const char *node, const char *ref)
{
	struct run r = { .argv = RUN_ARGV("qemu-img", "compare", "-U", "-q", "-f", "raw", "-F",
					  "qcow2", file_of(t, p, ref), file_of(t, p, node)),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 60000 };
	CHECK(run(t, &r) == 0);
	return r.ret_status == 0;
}

/* What the image's header calls the one below; "" for none. */
static const char *below(struct task *t, struct place *p, const char *node)
{
	const char *info = DOES(t, "qemu-img", "info", "-U", "--output=json", file_of(t, p, node));
	json_t *j = json_read(t, info, strlen(info), 16);
	const char *name = json_string_value(json_object_get(j, "backing-filename"));
	const char *format = json_string_value(json_object_get(j, "backing-filename-format"));
	CHECK(!name || streq(format, "qcow2"));
	return name ? name : "";
}

/* The end of the VM as a power cut is it, and the disk's content behind that. */
static void dies(struct task *t, struct place *p, const char *top, const char *lowest)
{
	CHECK(kill(p->pid, SIGKILL) == 0);
	CHECK(d->stop(t, p->vm) == 0);
	d->release(p->vm);
	CHECK(shows(t, p, top, "ref"));
	CHECK(streq(below(t, p, lowest), "") || streq(below(t, p, lowest), "l0"));
	DOES(t, "qemu-img", "check", "-q", file_of(t, p, top));
	DOES(t, "rm", "-rf", p->dir);
}

/* ---- what QEMU has open ---- */

static long flags_of(struct task *t, pid_t pid, const char *fd)
{
	long flags = 0;
	FILE *f = fopen(str(t, "/proc/%d/fdinfo/%s", (int)pid, fd), "re");
	CHECK(f && fscanf(f, "pos: %*d flags: %lo", (unsigned long *)&flags) == 1);
	fclose(f);
	return flags;
}

/* How many descriptors of the file the process has, of those that write or of those that do not. */
static int opened(struct task *t, struct place *p, const char *node, bool writable)
{
	const char *folder = str(t, "/proc/%d/fd", (int)p->pid);
	int n = 0;
	DIR *dir = opendir(folder);
	struct dirent *e;
	CHECK(dir);
	while ((e = readdir(dir))) {
		char to[1024] = "";
		if (readlink(str(t, "%s/%s", folder, e->d_name), to, sizeof to - 1) >= 0 &&
		    streq(to, file_of(t, p, node)))
			n += ((flags_of(t, p->pid, e->d_name) & O_ACCMODE) != O_RDONLY) == writable;
	}
	closedir(dir);
	return n;
}

/* The layers, lowest first, are what QEMU has open: each frozen one once, and only the top to write. */
static void has_open(struct task *t, struct place *p, const char *nodes)
{
	struct list names = list_split(t, nodes, ' ');
	const char *top = "";
	for (size_t i = 0; i < names.n; i++) {
		CHECK(opened(t, p, names.v[i], true) == (i + 1 == names.n));
		CHECK(opened(t, p, names.v[i], false) == 1);
	}
	for (int i = 0; i < LAYERS; i++)
		if (!list_has(&names, str(t, "l%d", i)))
			CHECK(opened(t, p, str(t, "l%d", i), false) +
				      opened(t, p, str(t, "l%d", i), true) ==
			      0);
	CHECK(d->top(t, p->vm, "disk0", &top) == 0 && streq(top, names.v[names.n - 1]));
}

/* A new top; then the disk's layers are these. */
static void switches(struct task *t, struct place *p, const char *top, const char *nodes)
{
	double ms;
	struct list names = list_split(t, nodes, ' ');
	const char *old = names.v[names.n - 2];
	image(t, p, top, old);
	struct vmm_switch s = { "disk0", old, layer(t, p, top, old, false) };
	CHECK(d->prepare(t, p->vm, 1, &s) == 0);
	CHECK(d->switch_disks(t, p->vm, 1, &s, &ms) == 0);
	d->tidy(t, p->vm, 1, &s);
	p->layers = chain(t, p, nodes);
	has_open(t, p, nodes);
}

/* ---- merges ---- */

static int agree(struct task *t, void *arg)
{
	(void)t;
	++*(int *)arg;
	return 0;
}

static int refuse(struct task *t, void *arg)
{
	++*(int *)arg;
	return fail(t, INTERNAL_ERROR, "not now");
}

static int pivots;

static struct vmm_merge merge(struct task *t, struct place *p, bool down, const char *upper,
			      const char *lower, const char *dropped)
{
	const char *top = json_string_value(
		json_object_get(json_array_get(p->layers, json_array_size(p->layers) - 1),
				"node-name"));
	return (struct vmm_merge){ .name = "merge-1",
				   .disk = "disk0",
				   .layers = p->layers,
				   .down = down,
				   .upper = upper,
				   .lower = lower,
				   .dropped = list_split(t, dropped, ' '),
				   .link = lower,
				   .pivot = down && streq(upper, top) ? agree : NULL,
				   .arg = &pivots };
}

static void state_is(struct task *t, struct place *p, const struct vmm_merge *m, bool recorded,
		     enum vmm_merge_state wanted)
{
	enum vmm_merge_state s;
	if (d->merge_state(t, p->vm, m, recorded, &s) < 0)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(!t->code && s == wanted);
}

static void closes(struct task *t, struct place *p, struct vmm_merge *m)
{
	struct vmm_merge bare = { .name = m->name,
				  .disk = m->disk,
				  .down = m->down,
				  .upper = m->upper,
				  .lower = m->lower,
				  .dropped = m->dropped,
				  .link = m->link };
	CHECK(d->merge_close(t, p->vm, &bare) == 0);
	CHECK(d->merge_close(t, p->vm, &bare) == 0);
	state_is(t, p, &bare, false, VMM_MERGE_NONE);
}

static void works(struct task *t, struct place *p, struct vmm_merge m, const char *nodes)
{
	int64_t start = clock_ms();
	if (d->merge(t, p->vm, &m) < 0)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(!t->code);
	printf("%s of %s and %s: %d ms\n", m.down ? "down" : "up", m.upper, m.lower,
	       (int)(clock_ms() - start));
	state_is(t, p, &m, m.pivot, VMM_MERGE_DONE);
	state_is(t, p, &m, m.pivot, VMM_MERGE_DONE);
	closes(t, p, &m);
	has_open(t, p, nodes);
	p->layers = chain(t, p, nodes);
}

static void fails(struct task *t, struct place *p, struct vmm_merge m, const char *nodes)
{
	CHECK(d->merge(t, p->vm, &m) < 0 && t->code);
	task_forgive(t);
	state_is(t, p, &m, false, VMM_MERGE_NONE);
	closes(t, p, &m);
	has_open(t, p, nodes);
}

/* The names can be used again, and so can the places: another switch, another merge. */
static void up_below(struct task *t)
{
	struct place *p = place_new(t);
	works(t, p, merge(t, p, false, "l3", "l1", "l2"), "l0 l1 l3 l4");
	CHECK(streq(below(t, p, "l3"), "l1"));
	switches(t, p, "l2", "l0 l1 l3 l4 l2");
	works(t, p, merge(t, p, false, "l4", "l0", "l3 l1"), "l0 l4 l2");
	works(t, p, merge(t, p, false, "l4", "", "l0"), "l4 l2");
	CHECK(streq(below(t, p, "l4"), ""));
	dies(t, p, "l2", "l4");
}

static void down_below(struct task *t)
{
	struct place *p = place_new(t);
	works(t, p, merge(t, p, true, "l2", "l1", "l2"), "l0 l1 l3 l4");
	CHECK(streq(below(t, p, "l3"), "l1"));
	works(t, p, merge(t, p, true, "l3", "l0", "l3 l1"), "l0 l4");
	CHECK(streq(below(t, p, "l4"), "l0"));
	switches(t, p, "l1", "l0 l4 l1");
	dies(t, p, "l1", "l0");
}

static void down_from_top(struct task *t)
{
	struct place *p = place_new(t);
	struct vmm_merge m = merge(t, p, true, "l4", "l2", "l4 l3");
	m.pivot = refuse;
	pivots = 0;
	fails(t, p, m, "l0 l1 l2 l3 l4");
	m.pivot = agree;
	works(t, p, m, "l0 l1 l2");
	CHECK(pivots == 2);
	switches(t, p, "l3", "l0 l1 l2 l3");
	CHECK(d->pause(t, p->vm) == 0);
	works(t, p, merge(t, p, true, "l3", "l2", "l3"), "l0 l1 l2");
	CHECK(d->resume(t, p->vm) == 0);
	CHECK(streq(below(t, p, "l2"), "l1"));
	dies(t, p, "l2", "l1");
}

/* ---- meanwhile ---- */

struct worker {
	struct task_sink sink;
	struct task *t;
	struct place *p;
	struct vmm_merge m;
	int begun[2]; /* a pipe: a byte for the first progress, or for the pivot */
	bool cancels;
	int64_t cancelled;
	_Atomic bool over;
	int result;
};

static void progress(struct task_sink *s, double fraction)
{
	struct worker *w = (struct worker *)s;
	(void)fraction;
	CHECK(write(w->begun[1], "", 1) == 1);
	if (w->cancels && !w->cancelled) {
		w->cancelled = clock_ms();
		task_interrupt(w->t);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	w->t->sink = &w->sink;
	w->t->cancellable = true;
	w->result = d->merge(w->t, w->p->vm, &w->m);
	w->over = true;
	return NULL;
}

static void begun(struct worker *w)
{
	char c;
	CHECK(read(w->begun[0], &c, 1) == 1);
}

static struct worker worker(struct task *t, struct place *p, struct vmm_merge m)
{
	struct worker w = { .sink.progress = progress, .t = task_new(t, "merge"), .p = p, .m = m };
	CHECK(pipe2(w.begun, O_CLOEXEC) == 0);
	return w;
}

static void switch_while_up(struct task *t)
{
	struct place *p = place_new(t);
	struct worker w = worker(t, p, merge(t, p, false, "l3", "", "l2 l1 l0"));
	struct vmm_switch s = { "disk0", "l4", layer(t, p, "l5", "l4", false) };
	pthread_t thread;
	double ms;
	image(t, p, "l5", "l4");
	CHECK(d->prepare(t, p->vm, 1, &s) == 0);
	CHECK(pthread_create(&thread, NULL, work, &w) == 0);
	begun(&w);
	bool before = !w.over;
	CHECK(d->switch_disks(t, p->vm, 1, &s, &ms) == 0);
	d->tidy(t, p->vm, 1, &s);
	printf("a switch while layers are merged: %.1f ms%s\n", ms, before ? "" : " (too late)");
	pthread_join(thread, NULL);
	CHECK(w.result == 0);
	closes(t, p, &w.m);
	has_open(t, p, "l3 l4 l5");
	dies(t, p, "l5", "l3");
}

static void cancels(struct task *t)
{
	struct place *p = place_new(t);
	const struct vmm_merge all[] = {
		merge(t, p, false, "l3", "", "l2 l1 l0"),
		merge(t, p, true, "l3", "l0", "l3 l2 l1"),
		merge(t, p, true, "l4", "l0", "l4 l3 l2 l1"),
	};
	for (size_t i = 0; i < COUNT(all); i++) {
		struct worker w = worker(t, p, all[i]);
		w.cancels = true;
		work(&w);
		CHECK(w.result < 0 && w.t->code == TASK_CANCELLED);
		printf("cancelled after %d ms\n", (int)(clock_ms() - w.cancelled));
		state_is(t, p, &w.m, false, VMM_MERGE_NONE);
		closes(t, p, &w.m);
		has_open(t, p, "l0 l1 l2 l3 l4");
	}
	switches(t, p, "l5", "l0 l1 l2 l3 l4 l5");
	dies(t, p, "l5", "l1");
}

static int stay(struct task *t, void *arg)
{
	struct worker *w = arg;
	(void)t;
	CHECK(write(w->begun[1], "", 1) == 1);
	for (;;)
		pause();
}

static struct vmm *adopt(struct task *t, struct place *p)
{
	struct vmm *vm = d->adopt(t, p->config.uuid, p->dir, (struct vmm_listener){ hear, NULL, "vm" });
	if (!vm)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(vm);
	return vm;
}

/* Another daemon begins the merge, and dies of it: at its first progress, or in its pivot. */
static void orphan(struct task *t, struct place *p, struct vmm_merge m)
{
	struct worker w = worker(t, p, m);
	d->release(p->vm);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		p->vm = adopt(t, p);
		if (w.m.pivot) {
			w.m.pivot = stay;
			w.m.arg = &w;
			w.sink.progress = NULL;
			d->merge(w.t, p->vm, &w.m);
		} else
			work(&w);
		_exit(0);
	}
	begun(&w);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	p->vm = adopt(t, p);
}

static void daemon_dies(struct task *t)
{
	struct place *p = place_new(t);
	struct vmm_merge up = merge(t, p, false, "l3", "", "l2 l1 l0");
	orphan(t, p, up);
	state_is(t, p, &up, false, VMM_MERGE_NONE);
	closes(t, p, &up);
	has_open(t, p, "l0 l1 l2 l3 l4");

	struct vmm_merge down = merge(t, p, true, "l4", "l3", "l4");
	orphan(t, p, down);
	state_is(t, p, &down, false, VMM_MERGE_NONE);
	closes(t, p, &down);
	has_open(t, p, "l0 l1 l2 l3 l4");

	orphan(t, p, down);
	state_is(t, p, &down, true, VMM_MERGE_DONE);
	closes(t, p, &down);
	has_open(t, p, "l0 l1 l2 l3");
	p->layers = chain(t, p, "l0 l1 l2 l3");
	switches(t, p, "l4", "l0 l1 l2 l3 l4");
	dies(t, p, "l4", "l1");
}

typedef int deed_fn(struct task *, struct place *, const struct vmm_merge *);

static int merging(struct task *t, struct place *p, const struct vmm_merge *m)
{
	return d->merge(t, p->vm, m);
}

static int settling(struct task *t, struct place *p, const struct vmm_merge *m)
{
	enum vmm_merge_state s;
	return d->merge_state(t, p->vm, m, false, &s);
}

/* A daemon dies at the n-th place of what it does; false: there is no such place, and it is done. */
static bool dies_at(struct task *t, struct place *p, const struct vmm_merge *m, deed_fn *deed, int n)
{
	int status;
	d->release(p->vm);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		p->vm = adopt(t, p);
		crash_after(n);
		_exit(deed(t, p, m) < 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	p->vm = adopt(t, p);
	CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
	return WIFSIGNALED(status);
}

/* Wherever it was: what there is left of a merge can be merged, and switched. */
static void goes_on(struct task *t, struct place *p, struct vmm_merge m)
{
	enum vmm_merge_state s;
	if (d->merge_state(t, p->vm, &m, false, &s) < 0)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(!t->code);
	closes(t, p, &m);
	if (s == VMM_MERGE_NONE) {
		has_open(t, p, "l0 l1 l2 l3 l4");
		works(t, p, m, "l0 l1 l3 l4");
	}
	p->layers = chain(t, p, "l0 l1 l3 l4");
	has_open(t, p, "l0 l1 l3 l4");
	works(t, p, merge(t, p, true, "l3", "l1", "l3"), "l0 l1 l4");
	switches(t, p, "l2", "l0 l1 l4 l2");
	works(t, p, merge(t, p, true, "l2", "l4", "l2"), "l0 l1 l4");
	dies(t, p, "l4", "l1");
}

static void daemon_dies_anywhere(struct task *t)
{
	int n = 0;
	bool died;
	do {
		struct place *p = place_new(t);
		struct vmm_merge up = merge(t, p, false, "l3", "l1", "l2");
		died = dies_at(t, p, &up, merging, ++n);
		for (int m = 1; died && dies_at(t, p, &up, settling, m); m++)
			;
		goes_on(t, p, up);
	} while (died);
	printf("killed at %d places\n", n - 1);
	CHECK(n > 5);
}

/* A QEMU that dies in the middle makes the merge fail at once. */
static void qemu_dies(struct task *t)
{
	struct place *p = place_new(t);
	struct worker w = worker(t, p, merge(t, p, false, "l3", "", "l2 l1 l0"));
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, work, &w) == 0);
	begun(&w);
	int64_t start = clock_ms();
	CHECK(kill(p->pid, SIGKILL) == 0);
	pthread_join(thread, NULL);
	CHECK(w.result < 0 && clock_ms() - start < 1000);
	d->release(p->vm);
	DOES(t, "rm", "-rf", p->dir);
}

/* Another process reads the layer, as a clone's VM would. */
static void while_read(struct task *t, struct place *p, struct vmm_merge m, const char *node)
{
	struct rival rival = rival_opens(t, false, file_of(t, p, node));
	fails(t, p, m, "l0 l1 l2 l3 l4");
	rival_ends(&rival);
}

/* What cannot be done is refused, and leaves nothing. */
static void refused(struct task *t)
{
	struct place *p = place_new(t);
	fails(t, p, merge(t, p, false, "l3", "nobody", ""), "l0 l1 l2 l3 l4");
	fails(t, p, merge(t, p, true, "l1", "l3", ""), "l0 l1 l2 l3 l4");
	fails(t, p, merge(t, p, false, "l4", "l0", "l3 l2 l1"), "l0 l1 l2 l3 l4");
	while_read(t, p, merge(t, p, false, "l3", "", "l2 l1 l0"), "l3");
	while_read(t, p, merge(t, p, true, "l2", "l1", "l2"), "l1");
	while_read(t, p, merge(t, p, true, "l2", "l1", "l2"), "l3");
	while_read(t, p, merge(t, p, true, "l4", "l3", "l4"), "l3");
	CHECK(unlink(file_of(t, p, "l3")) == 0);
	struct vmm_merge m = merge(t, p, true, "l2", "l1", "");
	CHECK(d->merge(t, p->vm, &m) < 0);
	task_forgive(t);
	CHECK(opened(t, p, "l1", true) == 0 && opened(t, p, "l1", false) == 1);
	CHECK(d->stop(t, p->vm) == 0);
	d->release(p->vm);
	DOES(t, "rm", "-rf", p->dir);
}

/* ---- with a guest that writes without rest ---- */

/* A kernel for the real mode of the Linux boot protocol: writes 512 W to the start of the disk, for ever. */
static const unsigned char writes[] = {
	0xfb,                   /*         sti                                       */
	0x0e, 0x1f,             /*         push %cs; pop %ds                         */
	0xbe, 0x7f, 0x00,       /* again:  mov $packet, %si                          */
	0xb8, 0x00, 0x43,       /*         mov $0x4300, %ax                          */
	0xb2, 0x80,             /*         mov $0x80, %dl                            */
	0xcd, 0x13,             /*         int $0x13             the firmware writes */
	0xeb, 0xf4,             /*         jmp again                                 */
	0x10, 0,    1,    0,    /* packet: one sector                                */
	0x90, 0x01, 0x20, 0x10, /*         from 0x1020:0x190                         */
	0,    0,    0,    0,    /*         to block 0                                */
	0,    0,    0,    0,
};

/* The same VM with that guest; what it writes is in `ref`. */
static void boot(struct task *t, struct place *p)
{
	unsigned char k[4096] = { [0x1f1] = 4,    [0x1fe] = 0x55, [0x1ff] = 0xaa, [0x200] = 0xeb,
				  [0x201] = 0x6e, /* jmp 0x270 */
				  [0x202] = 'H',  [0x203] = 'd',  [0x204] = 'r',  [0x205] = 'S',
				  [0x206] = 3,    [0x207] = 2,    [0x211] = 1 };
	FD_SCOPE int fd = open(file_of(t, p, "kernel"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	memcpy(k + 0x270, writes, sizeof writes);
	memset(k + 0x390, 'W', 512);
	CHECK(fd >= 0 && io_write(t, fd, k, sizeof k, -1) == 0);
	DOES(t, "qemu-io", "-f", "raw", "-c", "write -P 0x57 0 512", file_of(t, p, "ref"));
	CHECK(d->stop(t, p->vm) == 0);
	d->release(p->vm);
	p->config.kernel = fd;
	up_again(t, p);
	p->config.kernel = -1;
	for (int i = 0; i < 200 && !shows(t, p, "l4", "ref"); i++)
		usleep(50000);
}

/* The job is slow while the guest writes, and fast when it stands still. */
static void gives_way(struct task *t)
{
	struct place *p = place_new(t);
	boot(t, p);
	struct worker w = worker(t, p, merge(t, p, false, "l3", "", "l2 l1 l0"));
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, work, &w) == 0);
	begun(&w);
	sleep(2);
	CHECK(!w.over);
	CHECK(d->pause(t, p->vm) == 0);
	int64_t start = clock_ms();
	pthread_join(thread, NULL);
	printf("the guest wrote, then stood still: the rest took %d ms\n",
	       (int)(clock_ms() - start));
	CHECK(w.result == 0);
	closes(t, p, &w.m);
	CHECK(d->resume(t, p->vm) == 0);
	dies(t, p, "l4", "l3");
}

/* What the guest writes in the meantime is in the lower layer. */
static void down_under_writes(struct task *t)
{
	struct place *p = place_new(t);
	boot(t, p);
	works(t, p, merge(t, p, true, "l4", "l3", "l4"), "l0 l1 l2 l3");
	dies(t, p, "l3", "l1");
}

/* ---- figures ---- */

/* One question to the test guest, and its answer. */
static const char *ask(struct task *t, int serial, const char *question)
{
	char line[1024];
	size_t n = 0;
	if (*question)
		CHECK(io_write(t, serial, str(t, "%s\n", question), strlen(question) + 1, 1000) ==
		      0);
	while (n + 1 < sizeof line && io_read(t, serial, line + n, 1, 120000) == 1)
		if (line[n++] == '\n') {
			line[n] = 0;
			if (*question ? starts_with(line, "OK ") : !!strstr(line, "-GUEST ready"))
				return talloc_strdup(t, line);
			if (*question && starts_with(line, "ERR"))
				fprintf(stderr, "%s", line);
			CHECK(!*question || !starts_with(line, "ERR"));
			n = 0;
		}
	CHECK(!"the guest answers");
	return NULL;
}

static double number(const char *line, const char *key)
{
	const char *at = strstr(line, key);
	CHECK(at);
	return strtod(at + strlen(key), NULL);
}

static double counter(struct task *t, int serial)
{
	return number(ask(t, serial, "status"), " counter=");
}

/* How many rounds of writes the guest does in a second, and the longest one. */
static double rate(struct task *t, int serial, const char *when, double usual, int ms,
		   const _Atomic bool *until)
{
	ask(t, serial, "gap");
	int64_t start = clock_ms();
	double before = counter(t, serial);
	while (until ? !*until : clock_ms() < start + ms)
		usleep(2000);
	double n = counter(t, serial) - before, s = (double)(clock_ms() - start) / 1000;
	printf("%-28s %6.0f rounds/s %s, longest %.0f ms, in %.1f s\n", when, n / s,
	       usual > 0 ? str(t, "(%.2f of usual)", n / s / usual) : "",
	       number(ask(t, serial, "gap"), "write_ms="), s);
	return n / s;
}

static void merge_with_guest(struct task *t, struct place *p, int serial, struct vmm_merge m,
			     const char *nodes, const char *when)
{
	double usual = rate(t, serial, "alone", 0, 15000, NULL);
	struct worker w = worker(t, p, m);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, work, &w) == 0);
	rate(t, serial, when, usual, 0, &w.over);
	pthread_join(thread, NULL);
	if (w.result < 0)
		printf("  failed: %s\n", task_error(w.t));
	else
		p->layers = chain(t, p, nodes);
	closes(t, p, &m);
	has_open(t, p, w.result < 0 ? "l0 l2 l3" : nodes);
}

/* Merges under a guest that writes without rest: $GUEST is a folder of tools/make-guest. */
static void figures(struct task *t, const char *guest)
{
	struct place *p = place_new(t);
	FD_SCOPE int serial = -1;
	FD_SCOPE int kernel = open(str(t, "%s/vmlinux", guest), O_RDONLY | O_CLOEXEC);
	FD_SCOPE int ramdisk = open(str(t, "%s/initrd.img", guest), O_RDONLY | O_CLOEXEC);
	CHECK(d->stop(t, p->vm) == 0);
	d->release(p->vm);
	DOES(t, "qemu-img", "create", "-q", "-f", "qcow2", file_of(t, p, "l0"), "4G");
	p->layers = chain(t, p, "l0");
	p->disk.layers = p->layers;
	p->config.memory = 512 << 20;
	p->config.kernel = kernel;
	p->config.ramdisk = ramdisk;
	p->config.cmdline = "console=ttyS0 quiet";
	p->config.paused = true;
	up_again(t, p);
	CHECK(d->serial(t, p->vm, &serial) == 0 && d->resume(t, p->vm) == 0);
	ask(t, serial, "");
	for (int i = 0; i < 3; i++) {
		ask(t, serial, str(t, "write a f%d 64 %d", i, i + 1));
		const char *top = str(t, "l%d", i + 1), *old = str(t, "l%d", i);
		DOES(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", old,
		     file_of(t, p, top), "4G");
		struct vmm_switch s = { "disk0", old, layer(t, p, top, old, false) };
		double ms;
		CHECK(d->prepare(t, p->vm, 1, &s) == 0);
		CHECK(d->switch_disks(t, p->vm, 1, &s, &ms) == 0);
		d->tidy(t, p->vm, 1, &s);
	}
	p->layers = chain(t, p, "l0 l1 l2 l3");
	ask(t, serial, "count start");
	ask(t, serial, "gap start");
	merge_with_guest(t, p, serial, merge(t, p, false, "l2", "l0", "l1"), "l0 l2 l3",
			 "up, below the top");
	struct vmm_merge m = merge(t, p, true, "l3", "l2", "l3");
	merge_with_guest(t, p, serial, m, "l0 l2", "down from the top");
	ask(t, serial, "count stop");
	for (int i = 0; i < 3; i++)
		printf("%s", ask(t, serial, str(t, "sum a f%d", i)));
	CHECK(d->stop(t, p->vm) == 0);
	d->release(p->vm);
	DOES(t, "rm", "-rf", p->dir);
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
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && streq(argv[1], "figures")) {
		figures(t, getenv("GUEST"));
		talloc_free(t);
		return 0;
	}
	up_below(t);
	down_below(t);
	down_from_top(t);
	switch_while_up(t);
	cancels(t);
	daemon_dies(t);
	daemon_dies_anywhere(t);
	qemu_dies(t);
	refused(t);
	gives_way(t);
	down_under_writes(t);
	talloc_free(t);
	return 0;
}
