// SPDX-License-Identifier: Apache-2.0
/* fake.c -- VMs without a guest: the whole contract, quickly, and with faults on demand.
 *
 * A VM is the file DIR/fake.json, so it outlives the daemon as a real one does:
 *
 *     {"uuid": "...", "paused": false, "prepared": ["over0"], "chains": {"disk0": ["top0"]},
 *      "nics": ["nic-0"], "merges": {"NAME": {"disk": "disk0", "dropped": ["base"], "done": false}},
 *      "cpu": {"model": "base", "props": {"fpu": true, "sse2": true}, "more": {"level": 1}}}
 *
 * Each call is a line of the log, "fake switch_disks vm=... disk0: top0 < over0", by which tests
 * compare what was done.  In the environment
 *
 *     STILLFRAME_FAKE=fail=switch_disks,hang=prepare
 *
 * makes these members fail, or hang until the task is cancelled or 30 s are over; lacks=sse2 makes a host whose CPU
 * does not have that.  The power
 * button is heeded at once, and so is a wish to unplug.  Where a test listens on DIR/agent.sock, it is
 * the guest agent.  A VM that is paused and has "full": true in its file stands still since the storage of
 * disk-0 is full; with "stays-full": true it does so again when it is let go on.  One with "silent": true answers
 * nothing, as a process that is stopped: every member hangs, but those that end it. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/cpu.h"
#include "vmm/disks.h"
#include "vmm/fake_memory.h"
#include "vmm/folder.h"
#include "vmm/tpm.h"
#include "vmm/vmm.h"

enum { STATE_LIMIT = 1 << 20 };
#define PAUSE_MS 1.5 /* what every switch says it took */

struct vmm {
	char *dir;
	struct vmm_listener listener;
	pthread_t teller;   /* calls the listener */
	int news[2];        /* a pipe to the teller */
	_Atomic int merges; /* at work */
};

struct news {
	enum vmm_event event;
	char detail[28];
};

/* One call at a time changes a file.  Held while nothing waits. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- faults and the log ---- */

static bool has_fault(struct task *t, const char *kind, const char *member)
{
	const char *asked = getenv("STILLFRAME_FAKE");
	struct list faults = list_split(t, asked ? asked : "", ',');
	return list_has(&faults, str(t, "%s=%s", kind, member));
}

static void late(const char *member)
{
	struct task *t = task_new(NULL, "late");
	if (has_fault(t, "late", member))
		task_wait(t, -1, 0, delay_ms(DELAY_FAKE_LATE));
	talloc_free(t);
}

static const char *path_of(struct task *t, const char *dir);

/* Whether it still is, and so has to be asked again: a test may have it answer, or end it. */
static bool is_silent(struct task *t, const char *dir)
{
	struct task *own = task_new(t, t->name);
	const char *path = path_of(own, dir);
	char *text = file_exists(path) ? file_read(own, path, STATE_LIMIT) : NULL;
	const json_t *state = text ? json_read(own, text, strlen(text), 8) : NULL;
	bool silent = json_is_true(json_object_get(state, "silent"));
	talloc_free(own);
	return silent;
}

/* Until it ends, answers, or the time is over. */
static int wait_silent(struct task *t, const char *dir)
{
	int64_t until = clock_ms() + delay_ms(DELAY_FAKE_HANG);
	while (is_silent(t, dir)) {
		if (task_wait(t, -1, 0, delay_ms(DELAY_FAKE_LOOK)) < 0)
			return -1;
		if (clock_ms() >= until)
			return fail(t, INTERNAL_ERROR, "fake: no answer");
	}
	return 0;
}

static int enter(struct task *t, const char *dir, const char *member, const char *about)
{
	const char *slash = strrchr(dir, '/');
	bool ends_it = streq(member, "stop") || streq(member, "kill") || streq(member, "clear");
	log_line(t, "fake %s vm=%s%s%s", member, slash ? slash + 1 : dir, *about ? " " : "", about);
	if (!ends_it && wait_silent(t, dir) < 0)
		return -1;
	if (has_fault(t, "hang", member)) {
		if (task_wait(t, -1, 0, delay_ms(DELAY_FAKE_HANG)) < 0)
			return -1;
		return fail(t, INTERNAL_ERROR, str(t, "fake %s: no answer", member));
	}
	if (has_fault(t, "fail", member))
		return fail(t, INTERNAL_ERROR, str(t, "fake %s: made to fail", member));
	return 0;
}

/* "disk0: top0 < over0, ..." */
static const char *steps(struct task *t, size_t n, const struct vmm_switch *s)
{
	char *text = talloc_strdup(t, "");
	for (size_t i = 0; i < n; i++)
		text = talloc_asprintf_append(text, "%s%s: %s < %s", i ? ", " : "", s[i].disk,
					      s[i].below,
					      json_string_value(
						      json_object_get(s[i].overlay, "node-name")));
	return text;
}

/* ---- the file ---- */

static const char *path_of(struct task *t, const char *dir)
{
	return str(t, "%s/fake.json", dir);
}

static json_t *read_state(struct task *t, const char *dir)
{
	const char *path = path_of(t, dir);
	char *text = file_read(t, path, STATE_LIMIT);
	return text ? json_read(t, text, strlen(text), 8) : NULL;
}

/* NULL: failed, or the VM has ended. */
static json_t *load(struct task *t, const struct vmm *vm)
{
	if (!file_exists(path_of(t, vm->dir)))
		return fail_ptr(t, VM_HALTED, vm->listener.vm);
	return read_state(t, vm->dir);
}

/* Whole or not at all, but not durable: a VM does not survive its host either. */
static int store(struct task *t, const char *dir, const json_t *state)
{
	const char *path = path_of(t, dir), *new = str(t, "%s.new", path);
	if (json_dump_file(state, new, JSON_INDENT(1)) < 0 || rename(new, path) < 0)
		return task_fail_errno(t, errno, path);
	return 0;
}

static size_t position(const json_t *array, const char *s)
{
	size_t i = 0;
	while (i < json_array_size(array) && !streq(json_string_value(json_array_get(array, i)), s))
		i++;
	return i;
}

static bool has(const json_t *array, const char *s)
{
	return position(array, s) < json_array_size(array);
}

static const char *top_of(const json_t *state, const char *disk)
{
	const json_t *chain = json_object_get(json_object_get(state, "chains"), disk);
	size_t n = json_array_size(chain);
	return n ? json_string_value(json_array_get(chain, n - 1)) : NULL;
}

static bool in_use(const json_t *state, const char *node)
{
	const char *disk;
	json_t *chain;
	json_object_foreach (json_object_get(state, "chains"), disk, chain)
		if (has(chain, node))
			return true;
	return false;
}

static json_t *names_of(const json_t *layers)
{
	json_t *chain = json_array(), *layer;
	size_t i;
	json_array_foreach (layers, i, layer)
		json_array_append(chain, json_object_get(layer, "node-name"));
	return chain;
}

/* ---- its CPU ---- */

static const char *const features[] = { "fpu", "sse2" };

/* What the host has. */
static json_t *host_cpu(struct task *t)
{
	json_t *props = json_object();
	for (size_t i = 0; i < COUNT(features); i++)
		json_object_set_new(props, features[i],
				    json_boolean(!has_fault(t, "lacks", features[i])));
	return json_own(t, json_pack("{s:s, s:o, s:{s:i}}", "model", "base", "props", props, "more",
				     "level", 1));
}

static int missing_features(struct task *t, const char *accel, const json_t *cpu, struct list *ret)
{
	(void)accel;
	if (cpu_check(t, cpu) < 0)
		return -1;
	cpu_compare(t, cpu, json_object_get(host_cpu(t), "props"), UINT_MAX, ret);
	return 0;
}

/* Refused as QEMU does it; NULL: failed. */
static const json_t *given_cpu(struct task *t, const struct vmm_config *c)
{
	struct list missing = { 0 };
	if (!c->cpu)
		return host_cpu(t);
	if (missing_features(t, c->accel, c->cpu, &missing) < 0)
		return NULL;
	return missing.n ? fail_ptr(t, INTERNAL_ERROR,
				    str(t, "fake start: no %s here", list_join(t, &missing, ", ")))
			 : c->cpu;
}

/* ---- its file, at first ---- */

static json_t *first_state(const struct vmm_config *c, const json_t *cpu)
{
	json_t *chains = json_object(), *nics = json_array();
	for (size_t i = 0; i < c->ndisks; i++)
		json_object_set_new(chains, c->disks[i].id, names_of(c->disks[i].layers));
	if (c->firmware.vars)
		json_object_set_new(chains, VMM_NVRAM, names_of(c->firmware.vars));
	for (size_t i = 0; i < c->nnics; i++)
		json_array_append_new(nics, json_string(c->nics[i].id));
	return json_pack("{s:s, s:b, s:[], s:o, s:o, s:{}, s:O}", "uuid", c->uuid, "paused",
			 c->paused, "prepared", "chains", chains, "nics", nics, "merges", "cpu",
			 cpu);
}

/* ---- the listener ---- */

static void *teller(void *arg)
{
	struct vmm *vm = arg;
	struct news n;
	while (read(vm->news[0], &n, sizeof n) == sizeof n) {
		if (n.event == VMM_UNPLUGGED)
			late("unplugged");
		vm->listener.event(vm->listener.arg, n.event, n.detail);
	}
	return NULL;
}

static void tell(struct vmm *vm, enum vmm_event event, const char *detail)
{
	struct news n = { .event = event };
	snprintf(n.detail, sizeof n.detail, "%s", detail);
	if (write(vm->news[1], &n, sizeof n) != sizeof n)
		log_line(NULL, "fake event lost event=%d", event);
}

static struct vmm *vmm_new(struct task *t, const char *dir, struct vmm_listener l)
{
	struct vmm *vm = calloc(1, sizeof *vm);
	if (!vm || pipe2(vm->news, O_CLOEXEC) < 0) {
		free(vm);
		return fail_ptr(t, INTERNAL_ERROR, "no fake VM can be made");
	}
	vm->dir = strdup(dir);
	vm->listener = l;
	pthread_create(&vm->teller, NULL, teller, vm);
	return vm;
}

static void release(struct vmm *vm)
{
	close(vm->news[1]);
	pthread_join(vm->teller, NULL);
	close(vm->news[0]);
	free(vm->dir);
	free(vm);
}

/* ---- the contract ---- */

/* The agent's socket is the test's. */
static int clear(struct task *t, const char *uuid, const char *dir)
{
	(void)uuid;
	return enter(t, dir, "clear", "") < 0 ? -1 : folder_clear(t, dir, "agent.sock");
}

static int check(struct task *t, const struct vmm_config *c)
{
	return enter(t, c->dir, "check", "");
}

static struct vmm *start(struct task *t, const struct vmm_config *c, struct vmm_listener l)
{
	if (enter(t, c->dir, "start", str(t, "disks=%zu", c->ndisks)) < 0)
		return NULL;
	if (c->tpm && tpm_write(t, c) < 0)
		return NULL;
	if (c->image >= 0 && fake_memory_load(t, c->image, c->image_at) < 0)
		return NULL;
	const json_t *cpu = given_cpu(t, c);
	json_t *state = cpu ? json_own(t, first_state(c, cpu)) : NULL;
	if (!state)
		return NULL;
	return store(t, c->dir, state) < 0 ? NULL : vmm_new(t, c->dir, l);
}

static struct vmm *adopt(struct task *t, const char *uuid, const char *dir, struct vmm_listener l)
{
	if (enter(t, dir, "adopt", "") < 0 || !file_exists(path_of(t, dir)))
		return NULL;
	json_t *state = read_state(t, dir);
	if (!state || !streq(json_string_value(json_object_get(state, "uuid")), uuid))
		return NULL;
	return vmm_new(t, dir, l);
}

static int status(struct task *t, struct vmm *vm, enum vmm_status *ret)
{
	json_t *state = enter(t, vm->dir, "status", "") < 0 ? NULL : load(t, vm);
	if (!state)
		return -1;
	*ret = !json_is_true(json_object_get(state, "paused")) ? VMM_RUNNING
	       : json_object_get(state, "full")                ? VMM_IO_ERROR
							       : VMM_PAUSED;
	return 0;
}

static int set_paused(struct task *t, struct vmm *vm, const char *member, bool paused)
{
	if (enter(t, vm->dir, member, "") < 0)
		return -1;
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm);
	bool was = state && json_is_true(json_object_get(state, "paused"));
	if (state)
		json_object_set_new(state, "paused", json_boolean(paused));
	int result = state ? store(t, vm->dir, state) : -1;
	pthread_mutex_unlock(&lock);
	if (result == 0 && was != paused)
		tell(vm, paused ? VMM_STOPPED : VMM_RESUMED, "");
	return result;
}

static int do_pause(struct task *t, struct vmm *vm)
{
	return set_paused(t, vm, "pause", true);
}

/* One whose storage is still full writes, and stops again. */
static int resume_full(struct task *t, struct vmm *vm, bool *ret_stays)
{
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm);
	*ret_stays = json_is_true(json_object_get(state, "stays-full"));
	if (state && !*ret_stays)
		json_object_del(state, "full");
	int result = state ? store(t, vm->dir, state) : -1;
	pthread_mutex_unlock(&lock);
	return result;
}

static int resume(struct task *t, struct vmm *vm)
{
	bool stays;
	if (resume_full(t, vm, &stays) < 0)
		return -1;
	if (stays) {
		tell(vm, VMM_NOSPACE, "disk-0");
		return enter(t, vm->dir, "resume", "");
	}
	return set_paused(t, vm, "resume", false);
}

/* Not in the middle of a change, which would write it anew.  1: the VM has ended; 0: it had before. */
static int remove_state(struct task *t, const char *dir)
{
	const char *path = path_of(t, dir);
	pthread_mutex_lock(&lock);
	int err = unlink(path) < 0 ? errno : 0;
	pthread_mutex_unlock(&lock);
	return err == 0 ? 1 : err == ENOENT ? 0 : task_fail_errno(t, err, path);
}

static int end(struct task *t, struct vmm *vm, const char *why)
{
	int ended = remove_state(t, vm->dir);
	if (ended > 0)
		tell(vm, VMM_EXITED, why);
	return ended < 0 ? -1 : 0;
}

static int do_shutdown(struct task *t, struct vmm *vm)
{
	if (enter(t, vm->dir, "shutdown", "") < 0)
		return -1;
	if (!file_exists(path_of(t, vm->dir))) {
		tell(vm, VMM_EXITED, "shutdown"); /* a test has taken the file away */
		return fail(t, VM_HALTED, vm->listener.vm);
	}
	return end(t, vm, "shutdown");
}

static int reset(struct task *t, struct vmm *vm)
{
	return enter(t, vm->dir, "reset", "") < 0 || !load(t, vm) ? -1 : 0;
}

static int stop(struct task *t, struct vmm *vm)
{
	return enter(t, vm->dir, "stop", "") < 0 ? -1 : end(t, vm, "");
}

static int do_kill(struct task *t, const char *uuid, const char *dir)
{
	(void)uuid;
	return enter(t, dir, "kill", "") < 0 || remove_state(t, dir) < 0 ? -1 : 0;
}

static int add_overlays(struct task *t, json_t *state, size_t n, const struct vmm_switch *s)
{
	json_t *prepared = json_object_get(state, "prepared");
	for (size_t i = 0; i < n; i++) {
		const char *node = json_string_value(json_object_get(s[i].overlay, "node-name"));
		if (!node || has(prepared, node) || in_use(state, node))
			return fail(t, INTERNAL_ERROR,
				    str(t, "fake prepare: no or second %s", node));
		json_array_append_new(prepared, json_string(node));
	}
	return 0;
}

static int use_overlays(struct task *t, json_t *state, size_t n, const struct vmm_switch *s)
{
	json_t *prepared = json_object_get(state, "prepared");
	json_t *chains = json_object_get(state, "chains");
	for (size_t i = 0; i < n; i++) {
		json_t *node = json_object_get(s[i].overlay, "node-name");
		const char *name = json_string_value(node), *top = top_of(state, s[i].disk);
		if (!top || !streq(top, s[i].below))
			return fail(t, INTERNAL_ERROR,
				    str(t, "fake switch: %s is not the top of %s", s[i].below,
					s[i].disk));
		if (!has(prepared, name))
			return fail(t, INTERNAL_ERROR, str(t, "fake switch: %s: not open", name));
		json_array_append(json_object_get(chains, s[i].disk), node);
		json_array_remove(prepared, position(prepared, name));
	}
	return 0;
}

/* All or none: what failed half-way is not stored. */
static int change(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s,
		  int (*step)(struct task *, json_t *, size_t, const struct vmm_switch *))
{
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm);
	int result = state ? step(t, state, n, s) : -1;
	if (result == 0)
		result = store(t, vm->dir, state);
	pthread_mutex_unlock(&lock);
	return result;
}

static int prepare(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s)
{
	if (enter(t, vm->dir, "prepare", steps(t, n, s)) < 0)
		return -1;
	return change(t, vm, n, s, add_overlays);
}

static int switch_disks(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s,
			double *ret_pause_ms)
{
	if (enter(t, vm->dir, "switch_disks", steps(t, n, s)) < 0 ||
	    change(t, vm, n, s, use_overlays) < 0)
		return -1;
	*ret_pause_ms = PAUSE_MS;
	return 0;
}

static void tidy(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s)
{
	(void)t, (void)vm, (void)n, (void)s;
}

static int send_memory(struct task *t, struct vmm_save *v)
{
	FD_SCOPE int to = v->open(t, v->arg);
	return to < 0 ? -1 : fake_memory_send(t, to);
}

static int rehearse(struct task *t, struct vmm *vm, struct vmm_save *v)
{
	v->rehearsed = true;
	json_t *state = enter(t, vm->dir, "rehearse", "") < 0 ? NULL : load(t, vm);
	v->cpu = json_object_get(state, "cpu");
	return state ? 0 : -1;
}

static int save(struct task *t, struct vmm *vm, struct vmm_save *v)
{
	assert(!atomic_load(&vm->merges));
	v->method = v->keep_stopped ? "stop-and-copy" : "background-snapshot";
	if (!v->rehearsed && rehearse(t, vm, v) < 0)
		return -1;
	if (enter(t, vm->dir, "save", steps(t, v->n, v->switches)) < 0 ||
	    (v->running && set_paused(t, vm, "pause", true) < 0))
		return -1;
	crash_point_standing();
	if (change(t, vm, v->n, v->switches, use_overlays) < 0)
		return -1;
	v->pause_ms = PAUSE_MS;
	int sent = send_memory(t, v);
	crash_point_standing();
	if (v->running && !v->keep_stopped && set_paused(t, vm, "resume", false) < 0)
		return -1;
	return sent;
}

static int save_end(struct task *t, struct vmm *vm, bool cancel)
{
	return enter(t, vm->dir, "save_end", cancel ? "cancel" : "") < 0 ? -1 : 0;
}

static int announce(struct task *t, struct vmm *vm)
{
	return enter(t, vm->dir, "announce", "");
}

static int knows_machine(struct task *t, const char *accel, const char *machine, bool *ret)
{
	(void)t, (void)accel;
	*ret = streq(machine, FAKE_MACHINE);
	return 0;
}

/* Grows the image, as QEMU would: it is the one thing that is asked of the file. */
static int resize(struct task *t, struct vmm *vm, const json_t *layers, uint64_t size)
{
	const json_t *layer = json_array_get(layers, json_array_size(layers) - 1);
	const char *node = json_string_value(json_object_get(layer, "node-name"));
	const char *file =
		json_string_value(json_object_get(json_object_get(layer, "file"), "filename"));
	const char *bytes = str(t, "%llu", (unsigned long long)size);
	json_t *state = enter(t, vm->dir, "resize", str(t, "node=%s size=%s", node, bytes)) < 0
				? NULL
				: load(t, vm);
	if (!state)
		return -1;
	if (!in_use(state, node))
		return fail(t, INTERNAL_ERROR, str(t, "fake resize: %s is not open", node));
	const char *format = json_string_value(json_object_get(layer, "driver"));
	struct run r = { .argv = RUN_ARGV("qemu-img", "resize", "-q", "-f", format, file, bytes),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = delay_ms(DELAY_FAKE_HANG) };
	return file ? run_ok(t, &r) : 0;
}

static int settle(struct task *t, struct vmm *vm, const char *node)
{
	return enter(t, vm->dir, "settle", str(t, "node=%s", node)) < 0 || !load(t, vm) ? -1 : 0;
}

static int drop(struct task *t, json_t *state, size_t n, const struct vmm_switch *s)
{
	(void)n;
	json_t *prepared = json_object_get(state, "prepared");
	if (in_use(state, s->below))
		return fail(t, INTERNAL_ERROR, str(t, "fake forget: %s is in use", s->below));
	if (has(prepared, s->below))
		json_array_remove(prepared, position(prepared, s->below));
	return 0;
}

static int forget(struct task *t, struct vmm *vm, const char *node)
{
	if (enter(t, vm->dir, "forget", str(t, "node=%s", node)) < 0)
		return -1;
	return change(t, vm, 1, &(struct vmm_switch){ .below = node }, drop);
}

static int top(struct task *t, struct vmm *vm, const char *disk, const char **ret_node)
{
	json_t *state = enter(t, vm->dir, "top", disk) < 0 ? NULL : load(t, vm);
	if (!state)
		return -1;
	const char *node = top_of(state, disk);
	*ret_node = talloc_strdup(t, node ? node : "");
	return 0;
}

/* ---- merges ---- */

/* The layers of the disk that it does without after the merge. */
static json_t *dropped(const json_t *chain, const struct vmm_merge *m)
{
	json_t *gone = json_array();
	size_t high = position(chain, m->upper) + m->down;
	for (size_t i = *m->lower ? position(chain, m->lower) + 1 : 0; i < high; i++)
		json_array_append(gone, json_array_get(chain, i));
	return gone;
}

static const char *file_of(const struct vmm_merge *m, const char *node)
{
	const json_t *file = json_object_get(disks_layer(m->layers, node), "file");
	return json_string_value(json_object_get(file, "filename"));
}

/* Not cancelled: QEMU too either has not begun to write a header, or has written it. */
static int image_tool(struct task *t, const char *const *argv)
{
	struct run r = {
		.argv = argv, .in = -1, .out = -1, .timeout_ms = delay_ms(DELAY_FAKE_HANG)
	};
	bool cancellable = t->cancellable;
	t->cancellable = false;
	int result = run_ok(t, &r);
	t->cancellable = cancellable;
	return result;
}

/* To the files what QEMU would do to them; above: the node that stands on upper, NULL: none. */
static int merge_files(struct task *t, const struct vmm_merge *m, const char *above)
{
	const char *upper = file_of(m, m->upper), *link = m->link;
	if (!upper)
		return 0;
	if (!m->down)
		return image_tool(t, *link ? RUN_ARGV("qemu-img", "rebase", "-f", "qcow2", "-F",
						      "qcow2", "-b", link, upper)
					   : RUN_ARGV("qemu-img", "rebase", "-f", "qcow2", "-b", "",
						      upper));
	if (image_tool(t, RUN_ARGV("qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b",
				   file_of(m, m->lower), upper)) < 0)
		return -1;
	return above ? image_tool(t, RUN_ARGV("qemu-img", "rebase", "-u", "-f", "qcow2", "-F",
					      "qcow2", "-b", link, file_of(m, above)))
		     : 0;
}

/* From what the disk has now: it may have been switched meanwhile. */
static void drop_layers(json_t *state, const json_t *merge)
{
	json_t *gone = json_object_get(merge, "dropped"), *node;
	json_t *chain = json_object_get(json_object_get(state, "chains"),
					json_string_value(json_object_get(merge, "disk")));
	size_t i;
	json_array_foreach (gone, i, node)
		json_array_remove(chain, position(chain, json_string_value(node)));
}

/* Notes how the merge stands, and with it, when it is done, the disk's new layers. */
static int note_merge(struct task *t, struct vmm *vm, const char *name, json_t *merge, bool is_done)
{
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm);
	json_object_set(merge, "done", json_boolean(is_done));
	json_object_set(json_object_get(state, "merges"), name, merge);
	if (is_done)
		drop_layers(state, merge);
	int result = state ? store(t, vm->dir, state) : -1;
	pthread_mutex_unlock(&lock);
	return result;
}

static int merge_layers(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	const char *about =
		str(t, "name=%s %s: %s %s %s", m->name, m->disk, m->upper,
		    m->down ? "down into" : "up from", *m->lower ? m->lower : "nothing");
	json_t *state = enter(t, vm->dir, "merge", about) < 0 ? NULL : load(t, vm);
	if (!state)
		return -1;
	const json_t *chain = json_object_get(json_object_get(state, "chains"), m->disk);
	size_t high = position(chain, m->upper);
	if (!has(chain, m->upper) || (*m->lower && position(chain, m->lower) >= high))
		return fail(t, INTERNAL_ERROR, str(t, "fake merge: no such layers, %s", about));
	const char *above = json_string_value(json_array_get(chain, high + 1));
	if (!m->down && !above)
		return fail(t, INTERNAL_ERROR, str(t, "fake merge: up into the top, %s", about));
	json_t *entry =
		json_own(t, json_pack("{s:s, s:o}", "disk", m->disk, "dropped", dropped(chain, m)));
	if (note_merge(t, vm, m->name, entry, false) < 0 || merge_files(t, m, above) < 0 ||
	    (m->pivot && m->pivot(t, m->arg) < 0))
		return -1;
	return note_merge(t, vm, m->name, entry, true);
}

static int merge(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	atomic_fetch_add(&vm->merges, 1);
	int result = merge_layers(t, vm, m);
	atomic_fetch_sub(&vm->merges, 1);
	return result;
}

/* One that is not done was cut short by a daemon's end. */
static int merge_state(struct task *t, struct vmm *vm, const struct vmm_merge *m, bool recorded,
		       enum vmm_merge_state *ret)
{
	json_t *state = enter(t, vm->dir, "merge_state", str(t, "name=%s", m->name)) < 0
				? NULL
				: load(t, vm);
	if (!state)
		return -1;
	json_t *entry = json_object_get(json_object_get(state, "merges"), m->name);
	bool is_done = json_is_true(json_object_get(entry, "done"));
	if (entry && recorded && !is_done) {
		if (note_merge(t, vm, m->name, entry, true) < 0)
			return -1;
		is_done = true;
	}
	*ret = is_done ? VMM_MERGE_DONE : VMM_MERGE_NONE;
	return 0;
}

static int forget_merge(struct task *t, json_t *state, size_t n, const struct vmm_switch *s)
{
	(void)t, (void)n;
	json_object_del(json_object_get(state, "merges"), s->disk);
	return 0;
}

static int merge_close(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	if (enter(t, vm->dir, "merge_close", str(t, "name=%s", m->name)) < 0)
		return -1;
	return change(t, vm, 1, &(struct vmm_switch){ .disk = m->name }, forget_merge);
}

/* ---- devices that come and go ---- */

/* The disk has these layers from now on; NULL: there is no such disk any more. */
static int set_chain(struct task *t, struct vmm *vm, const char *member, const char *id,
		     json_t *chain)
{
	if (enter(t, vm->dir, member, id) < 0) {
		json_decref(chain);
		return -1;
	}
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm), *chains = json_object_get(state, "chains");
	if (chain)
		json_object_set_new(chains, id, chain);
	else
		json_object_del(chains, id);
	int result = state ? store(t, vm->dir, state) : -1;
	pthread_mutex_unlock(&lock);
	return result;
}

static int plug_disk(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return set_chain(t, vm, "plug_disk", d->id, names_of(d->layers));
}

static int unplug_disk(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	if (set_chain(t, vm, "unplug_disk", d->id, NULL) < 0)
		return -1;
	tell(vm, VMM_UNPLUGGED, d->id);
	return 0;
}

static int insert(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return set_chain(t, vm, "insert", d->id, names_of(d->layers));
}

static int eject(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return set_chain(t, vm, "eject", d->id, json_array());
}

static int set_nic(struct task *t, struct vmm *vm, const char *member, const char *id, bool there)
{
	if (enter(t, vm->dir, member, id) < 0)
		return -1;
	pthread_mutex_lock(&lock);
	json_t *state = load(t, vm), *nics = json_object_get(state, "nics");
	if (there)
		json_array_append_new(nics, json_string(id));
	else if (has(nics, id))
		json_array_remove(nics, position(nics, id));
	int result = state ? store(t, vm->dir, state) : -1;
	pthread_mutex_unlock(&lock);
	return result;
}

static int plug_nic(struct task *t, struct vmm *vm, const struct vmm_nic *n)
{
	return set_nic(t, vm, "plug_nic", n->id, true);
}

static int unplug_nic(struct task *t, struct vmm *vm, const char *id)
{
	if (set_nic(t, vm, "unplug_nic", id, false) < 0)
		return -1;
	tell(vm, VMM_UNPLUGGED, id);
	return 0;
}

static int present(struct task *t, struct vmm *vm, const char *id, bool *ret)
{
	json_t *state = enter(t, vm->dir, "present", id) < 0 ? NULL : load(t, vm);
	if (!state)
		return -1;
	*ret = json_object_get(json_object_get(state, "chains"), id) ||
	       has(json_object_get(state, "nics"), id);
	late("present");
	return 0;
}

/* ---- doors ---- */

/* A connection that says who it is, and ends. */
static int hello(struct task *t, struct vmm *vm, const char *member, const char *words, int *ret_fd)
{
	int pair[2];
	if (enter(t, vm->dir, member, "") < 0 || !load(t, vm))
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return task_fail_errno(t, errno, "socketpair");
	FD_SCOPE int theirs = pair[1];
	FD_SCOPE int ours = pair[0];
	if (io_write(t, theirs, words, strlen(words), delay_ms(DELAY_FAKE_SAY)) < 0)
		return -1;
	*ret_fd = ours;
	ours = -1;
	return 0;
}

static int serial(struct task *t, struct vmm *vm, int *ret_fd)
{
	return hello(t, vm, "serial", "This is no guest.\r\n", ret_fd);
}

static int vnc(struct task *t, struct vmm *vm, int *ret_fd)
{
	return hello(t, vm, "vnc", "RFB 003.008\n", ret_fd);
}

static int screenshot(struct task *t, struct vmm *vm, int file)
{
	/* Two pixels, white and black; the last 0 is that of the string. */
	static const char ppm[] = "P6\n2 1\n255\n\377\377\377\0\0";
	if (enter(t, vm->dir, "screenshot", "") < 0)
		return -1;
	return io_write(t, file, ppm, sizeof ppm, delay_ms(DELAY_FAKE_SAY));
}

static int agent(struct task *t, struct vmm *vm, int *ret_fd)
{
	if (enter(t, vm->dir, "agent", "") < 0)
		return -1;
	int fd = unix_connect(t, str(t, "%s/agent.sock", vm->dir));
	if (fd < 0)
		return -1;
	*ret_fd = fd;
	return 0;
}

const struct vmm_driver vmm_fake = {
	.name = "fake",
	.clear = clear,
	.check = check,
	.start = start,
	.adopt = adopt,
	.status = status,
	.pause = do_pause,
	.resume = resume,
	.shutdown = do_shutdown,
	.reset = reset,
	.stop = stop,
	.prepare = prepare,
	.switch_disks = switch_disks,
	.tidy = tidy,
	.rehearse = rehearse,
	.save = save,
	.save_end = save_end,
	.announce = announce,
	.knows_machine = knows_machine,
	.missing_features = missing_features,
	.resize = resize,
	.settle = settle,
	.forget = forget,
	.top = top,
	.merge = merge,
	.merge_state = merge_state,
	.merge_close = merge_close,
	.plug_disk = plug_disk,
	.plug_nic = plug_nic,
	.unplug_disk = unplug_disk,
	.unplug_nic = unplug_nic,
	.present = present,
	.insert = insert,
	.eject = eject,
	.serial = serial,
	.vnc = vnc,
	.screenshot = screenshot,
	.agent = agent,
	.kill = do_kill,
	.release = release,
};
