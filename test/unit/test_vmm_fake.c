// SPDX-License-Identifier: Apache-2.0
/* test_vmm_fake.c -- the VMM without guests keeps the same contract. */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/vmm.h"

#include "check.h"

static const struct vmm_driver *const d = &vmm_fake;

/* ---- a VM of two disks ---- */

struct heard {
	_Atomic int times[VMM_CRASHED + 1];
	char end[32]; /* detail of VMM_EXITED; read after release only */
};

static void hear(void *arg, enum vmm_event event, const char *detail)
{
	struct heard *h = arg;
	if (event == VMM_EXITED)
		snprintf(h->end, sizeof h->end, "%s", detail);
	h->times[event]++;
}

static bool heard(struct heard *h, enum vmm_event event)
{
	for (int i = 0; i < 1000 && h->times[event] == 0; i++)
		usleep(1000);
	return h->times[event] == 1;
}

static json_t *layer(struct task *t, const char *node)
{
	return json_own(t, json_pack("{s:s}", "node-name", node));
}

static json_t *layers(struct task *t, const char *below, const char *top)
{
	json_t *l = json_own(t, json_array());
	json_array_append(l, layer(t, below));
	json_array_append(l, layer(t, top));
	return l;
}

static struct vmm_config config(struct task *t, const char *dir)
{
	struct vmm_disk *disks = talloc_zero_array(t, struct vmm_disk, 2);
	disks[0] = (struct vmm_disk){ .id = "a", .layers = layers(t, "base", "a0") };
	disks[1] = (struct vmm_disk){ .id = "b", .layers = layers(t, "base", "b0") };
	return (struct vmm_config){ .uuid = "u", .dir = dir, .ndisks = 2, .disks = disks, .image = -1 };
}

static void fails(struct task *t, int result)
{
	CHECK(result < 0 && t->code);
	task_forgive(t);
}

static bool top_is(struct task *t, struct vmm *vm, const char *disk, const char *node)
{
	const char *top = "";
	CHECK(d->top(t, vm, disk, &top) == 0);
	return streq(top, node);
}

/* ---- the tests ---- */

static void switches(struct task *t, struct vmm *vm)
{
	struct vmm_switch s[] = { { "a", "a0", layer(t, "a1") }, { "b", "b0", layer(t, "b1") } };
	double ms = 0;
	fails(t, d->switch_disks(t, vm, 2, s, &ms));
	CHECK(d->prepare(t, vm, 2, s) == 0);
	fails(t, d->prepare(t, vm, 1, s));
	s[1].below = "base";
	fails(t, d->switch_disks(t, vm, 2, s, &ms));
	CHECK(top_is(t, vm, "a", "a0") && top_is(t, vm, "b", "b0") && ms == 0);
	s[1].below = "b0";
	CHECK(d->switch_disks(t, vm, 2, s, &ms) == 0 && ms > 0);
	CHECK(top_is(t, vm, "a", "a1") && top_is(t, vm, "b", "b1"));
	fails(t, d->forget(t, vm, "a0"));
	fails(t, d->forget(t, vm, "a1"));
	CHECK(d->forget(t, vm, "nothing") == 0);
}

static void faults(struct task *t, struct vmm *vm)
{
	struct vmm_switch s[] = { { "a", "a1", layer(t, "a2") } };
	double ms;
	CHECK(d->prepare(t, vm, 1, s) == 0);
	setenv("STILLFRAME_FAKE", "fail=pause,fail=switch_disks", 1);
	fails(t, d->switch_disks(t, vm, 1, s, &ms));
	fails(t, d->pause(t, vm));
	CHECK(top_is(t, vm, "a", "a1"));
	setenv("STILLFRAME_FAKE", "hang=switch_disks", 1);
	t->deadline_ms = clock_ms() + 20;
	fails(t, d->switch_disks(t, vm, 1, s, &ms));
	t->deadline_ms = 0;
	unsetenv("STILLFRAME_FAKE");
	CHECK(d->forget(t, vm, "a2") == 0 && d->prepare(t, vm, 1, s) == 0);
}

static void pauses(struct task *t, struct vmm *vm, struct heard *h)
{
	enum vmm_status s;
	CHECK(d->status(t, vm, &s) == 0 && s == VMM_RUNNING);
	CHECK(d->pause(t, vm) == 0 && heard(h, VMM_STOPPED) && d->pause(t, vm) == 0);
	CHECK(d->status(t, vm, &s) == 0 && s == VMM_PAUSED);
	CHECK(d->resume(t, vm) == 0 && heard(h, VMM_RESUMED));
	CHECK(d->reset(t, vm) == 0);
}

static void grows(struct task *t, struct vmm *vm)
{
	CHECK(d->resize(t, vm, layers(t, "a0", "a1"), 1 << 20) == 0);
	fails(t, d->resize(t, vm, layers(t, "a1", "a2"), 1 << 20));
}

static int agree(struct task *t, void *arg)
{
	(void)t;
	++*(int *)arg;
	return 0;
}

static bool merge_is(struct task *t, struct vmm *vm, bool recorded, enum vmm_merge_state wanted)
{
	enum vmm_merge_state s;
	CHECK(d->merge_state(t, vm, &(struct vmm_merge){ .name = "m" }, recorded, &s) == 0);
	return s == wanted;
}

static void closes(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	CHECK(d->merge_close(t, vm, m) == 0 && d->merge_close(t, vm, m) == 0);
	CHECK(merge_is(t, vm, false, VMM_MERGE_NONE));
}

static int refuse(struct task *t, void *arg)
{
	(void)arg;
	return fail(t, INTERNAL_ERROR, "not now");
}

/* Disk b is base, b0, b1 at first. */
static void merges(struct task *t, struct vmm *vm)
{
	int pivots = 0;
	struct vmm_merge up = { .name = "m", .disk = "b", .upper = "b1", .lower = "", .link = "" };
	struct vmm_merge down = { .name = "m",
				  .disk = "b",
				  .upper = "b1",
				  .lower = "b0",
				  .link = "b0",
				  .down = true,
				  .pivot = refuse,
				  .arg = &pivots };
	fails(t, d->merge(t, vm, &up)); /* it is the top */
	up.upper = "b0";
	setenv("STILLFRAME_FAKE", "fail=merge", 1);
	fails(t, d->merge(t, vm, &up));
	unsetenv("STILLFRAME_FAKE");
	CHECK(merge_is(t, vm, false, VMM_MERGE_NONE));
	CHECK(d->merge(t, vm, &up) == 0 && merge_is(t, vm, false, VMM_MERGE_DONE));
	closes(t, vm, &up);
	CHECK(d->forget(t, vm, "base") < 0); /* disk a has it */
	task_forgive(t);

	fails(t, d->merge(t, vm, &down));
	CHECK(merge_is(t, vm, false, VMM_MERGE_NONE) && top_is(t, vm, "b", "b1"));
	closes(t, vm, &down);
	down.pivot = agree;
	CHECK(d->merge(t, vm, &down) == 0 && pivots == 1 && top_is(t, vm, "b", "b0"));
	CHECK(merge_is(t, vm, true, VMM_MERGE_DONE));
	closes(t, vm, &down);
	fails(t, d->merge(t, vm, &down));
	struct vmm_switch back = { "b", "b0", layer(t, "b1") };
	double ms;
	CHECK(d->prepare(t, vm, 1, &back) == 0 && d->switch_disks(t, vm, 1, &back, &ms) == 0);
}

/* A daemon that ended with the pivot recorded, and not yet done. */
static void merge_recorded(struct task *t, struct vmm *vm)
{
	struct vmm_merge down = { .name = "m",
				  .disk = "b",
				  .upper = "b1",
				  .lower = "b0",
				  .link = "b0",
				  .down = true,
				  .pivot = refuse };
	fails(t, d->merge(t, vm, &down));
	CHECK(merge_is(t, vm, true, VMM_MERGE_DONE) && top_is(t, vm, "b", "b0"));
	closes(t, vm, &down);
	struct vmm_switch back = { "b", "b0", layer(t, "b1") };
	double ms;
	CHECK(d->prepare(t, vm, 1, &back) == 0 && d->switch_disks(t, vm, 1, &back, &ms) == 0);
}

static void serial(struct task *t, struct vmm *vm)
{
	char text[64] = "";
	FD_SCOPE int fd = -1;
	CHECK(d->serial(t, vm, &fd) == 0);
	CHECK(io_read(t, fd, text, sizeof text - 1, 1000) > 0);
	CHECK(streq(text, "This is no guest.\r\n"));
}

static const char *does(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 20000 };
	CHECK(run_ok(t, &r) == 0);
	return r.ret_out;
}

#define DOES(t, ...) does(t, RUN_ARGV(__VA_ARGS__))

static void image(struct task *t, const char *dir, json_t *all, const char *node, const char *below,
		  const char *pattern)
{
	const char *file = str(t, "%s/%s", dir, node);
	if (*below)
		DOES(t, "qemu-img", "create", "-qu", "-f", "qcow2", "-F", "qcow2", "-b", below,
		     file, "8M");
	else
		DOES(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "8M");
	DOES(t, "qemu-io", "-f", "qcow2", "-c", str(t, "write -P %s %sM 2M", pattern, pattern),
	     file);
	json_array_append_new(all, json_pack("{s:s, s:{s:s}}", "node-name", node, "file",
					     "filename", file));
}

/* Each layer writes its number where the one below has written, too. */
static void image_shows(struct task *t, const char *dir, const char *node, const char *below)
{
	const char *file = str(t, "%s/%s", dir, node);
	const char *said =
		DOES(t, "qemu-io", "-f", "qcow2", "-c", "read -P 1 1M 1M", "-c", "read -P 2 2M 1M",
		     "-c", "read -P 3 3M 1M", "-c", "read -P 4 4M 2M", file);
	CHECK(!strstr(said, "failed"));
	CHECK(!strstr(DOES(t, "qemu-img", "info", file), "backing file:") == !*below);
	for (int i = 1; i <= 4; i++)
		unlink(str(t, "%s/f%d", dir, i));
}

/* base, then three layers: a disk of a VM of its own. */
static void merges_files(struct task *t, const char *dir)
{
	static const struct {
		const char *upper, *lower, *shown, *below;
		bool down;
	} all[] = {
		{ "f3", "f1", "f4", "f3", false }, { "f3", "", "f4", "f3", false },
		{ "f3", "f2", "f4", "f2", true },  { "f4", "f1", "f1", "", true },
	};
	for (size_t i = 0; i < COUNT(all); i++) {
		struct vmm_disk disk = { .id = "c", .layers = json_own(t, json_array()) };
		json_t *files = (json_t *)(uintptr_t)disk.layers;
		image(t, dir, files, "f1", "", "1");
		image(t, dir, files, "f2", "f1", "2");
		image(t, dir, files, "f3", "f2", "3");
		image(t, dir, files, "f4", "f3", "4");
		struct heard h = { { 0 }, "" };
		struct vmm_config c = { .uuid = "u", .dir = dir, .ndisks = 1, .disks = &disk, .image = -1 };
		struct vmm *vm = d->start(t, &c, (struct vmm_listener){ hear, &h, "vm" });
		struct vmm_merge m = { .name = "m",
				       .disk = "c",
				       .layers = files,
				       .upper = all[i].upper,
				       .lower = all[i].lower,
				       .link = all[i].lower,
				       .down = all[i].down };
		CHECK(vm && d->merge(t, vm, &m) == 0 && top_is(t, vm, "c", all[i].shown));
		CHECK(d->stop(t, vm) == 0);
		d->release(vm);
		image_shows(t, dir, all[i].shown, all[i].below);
	}
}

/* The daemon goes and comes back; then the guest ends. */
static void lives_on(struct task *t, struct vmm *vm, const char *dir)
{
	struct heard h = { { 0 }, "" };
	struct vmm_listener l = { hear, &h, "vm" };
	d->release(vm);
	CHECK(!d->adopt(t, "another", dir, l) && !t->code);
	vm = d->adopt(t, "u", dir, l);
	CHECK(vm && top_is(t, vm, "b", "b1"));
	CHECK(d->shutdown(t, vm) == 0 && heard(&h, VMM_EXITED));
	fails(t, d->pause(t, vm));
	CHECK(d->stop(t, vm) == 0);
	d->release(vm);
	CHECK(h.times[VMM_EXITED] == 1 && streq(h.end, "shutdown"));
	CHECK(!d->adopt(t, "u", dir, l) && !t->code);
	CHECK(d->kill(t, "u", dir) == 0);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	char dir[] = "/tmp/test_vmm_fake.XXXXXX";
	CHECK(mkdtemp(dir));
	struct heard h = { { 0 }, "" };
	struct vmm_config c = config(t, dir);
	struct vmm *vm = d->start(t, &c, (struct vmm_listener){ hear, &h, "vm" });
	CHECK(vm);
	switches(t, vm);
	faults(t, vm);
	pauses(t, vm, &h);
	grows(t, vm);
	merges(t, vm);
	merge_recorded(t, vm);
	serial(t, vm);
	lives_on(t, vm, dir);

	vm = d->start(t, &c, (struct vmm_listener){ hear, &h, "vm" });
	CHECK(vm && top_is(t, vm, "a", "a0"));
	CHECK(d->stop(t, vm) == 0 && heard(&h, VMM_EXITED));
	d->release(vm);
	CHECK(streq(h.end, ""));
	merges_files(t, dir);
	CHECK(rmdir(dir) == 0);
	talloc_free(t);
	return 0;
}
