// SPDX-License-Identifier: Apache-2.0
#include "vmm/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "base/io.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

/* ---- descriptions ---- */

static const char *node_of(const json_t *layer)
{
	return json_string_value(json_object_get(layer, "node-name"));
}

/* NULL: not a file, nor a device with a name. */
static const char *path_of(const json_t *layer)
{
	return json_string_value(json_object_get(json_object_get(layer, "file"), "filename"));
}

static bool is_frozen(const json_t *layer)
{
	return json_is_true(json_object_get(layer, "read-only"));
}

static const json_t *top_of(const json_t *layers)
{
	size_t n = json_array_size(layers);
	return n ? json_array_get(layers, n - 1) : NULL;
}

const char *disks_node(struct task *t, const struct vmm_disk *d)
{
	const char *node = node_of(top_of(d->layers));
	return node ? node : fail_ptr(t, INTERNAL_ERROR, str(t, "disk %s has no layers", d->id));
}

const char *disks_top_node(struct task *t, const json_t *layers)
{
	const char *node = node_of(top_of(layers));
	return talloc_strdup(t, node ? node : "");
}

/* The layer as QEMU is told of it, its file being in the set (-1: it has none).  Nothing is opened
 * in another way than told, or by itself later. */
static json_t *described(struct task *t, const json_t *layer, bool frozen, int set)
{
	json_t *j = json_own(t, json_deep_copy(layer)), *file = json_object_get(j, "file");
	json_object_set_new(j, "read-only", json_boolean(frozen));
	json_object_set_new(j, "auto-read-only", json_false());
	if (!frozen && !json_object_get(j, "discard"))
		json_object_set_new(j, "discard", json_string("unmap"));
	if (set >= 0) {
		/* "read-only" is inherited: so that freezing the layer freezes its file. */
		json_object_set_new(file, "filename", json_string(str(t, "/dev/fdset/%d", set)));
		json_object_set_new(file, "auto-read-only", json_false());
		json_object_del(file, "read-only");
	}
	return j;
}

/* QEMU takes from a set the descriptor that has the access and the directness it wants.  Whoever
 * described the layer has seen a file by that name: a link in its place has come since. */
static int file_open(struct task *t, const json_t *layer, bool frozen)
{
	const json_t *cache = json_object_get(json_object_get(layer, "file"), "cache");
	bool direct = json_is_true(json_object_get(cache, "direct"));
	int fd = open(path_of(layer), (frozen ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0) |
					      O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? task_fail_errno(t, errno, path_of(layer)) : fd;
}

/* ---- at the start ---- */

static int layer_args(struct task *t, struct args *a, const json_t *layer, bool frozen)
{
	const char *path = path_of(layer);
	int set = -1;
	if (path) {
		int fd = file_open(t, layer, frozen);
		if (fd < 0)
			return -1;
		set = args_set(a, fd);
	}
	if (path && !frozen) {
		int fd = file_open(t, layer, true);
		if (fd < 0)
			return -1;
		args_fd_in_set(a, fd, set, node_of(layer));
	}
	args_add(a, "-blockdev", json_text(a, described(t, layer, frozen, set)));
	return 0;
}

static bool opened_frozen(const json_t *layers, const json_t *layer, bool read_only)
{
	return is_frozen(layer) || (read_only && layer == top_of(layers));
}

/* done: the layers that are on the line already. */
static int chain_args(struct task *t, struct args *a, const json_t *layers, bool read_only,
		      struct list *done)
{
	const json_t *layer;
	size_t i;
	json_array_foreach (layers, i, layer) {
		const char *node = node_of(layer);
		if (!node)
			return fail(t, INTERNAL_ERROR, "a layer without a node-name");
		if (list_has(done, node))
			continue;
		list_add(t, done, node);
		if (layer_args(t, a, layer, opened_frozen(layers, layer, read_only)) < 0)
			return -1;
	}
	return 0;
}

int disks_args(struct task *t, struct args *a, const struct vmm_config *c)
{
	struct list done = { 0 };
	for (size_t i = 0; i < c->ndisks; i++) {
		const struct vmm_disk *d = &c->disks[i];
		if (!d->layers && d->cd)
			continue;
		if (!disks_node(t, d) || chain_args(t, a, d->layers, d->read_only, &done) < 0)
			return -1;
	}
	if (chain_args(t, a, c->firmware.code, true, &done) < 0)
		return -1;
	return chain_args(t, a, c->firmware.vars, false, &done);
}

/* ---- sets ---- */

/* set -1: a new one. */
static int set_add(struct task *t, struct qmp *q, int fd, int64_t set, const char *note,
		   int64_t *ret_set, int64_t *ret_fd)
{
	json_t *a = json_object();
	if (set >= 0)
		json_object_set_new(a, "fdset-id", json_integer(set));
	if (note)
		json_object_set_new(a, "opaque", json_string(note));
	struct qmp_call c = { .command = "add-fd", .arguments = a, .fd = fd };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	*ret_set = json_integer_value(json_object_get(c.ret, "fdset-id"));
	*ret_fd = json_integer_value(json_object_get(c.ret, "fd"));
	return 0;
}

/* fd -1: all that is in it. */
static int set_remove(struct task *t, struct qmp *q, int64_t set, int64_t fd)
{
	json_t *a = json_pack("{s:I}", "fdset-id", (json_int_t)set);
	if (fd >= 0)
		json_object_set_new(a, "fd", json_integer(fd));
	return qmp_do(t, q, "remove-fd", a);
}

/* Takes out of all sets the descriptors that have one of the notes; NULL: those without a note. */
static int sets_drop(struct task *t, struct qmp *q, const struct list *notes)
{
	struct qmp_call c = { .command = "query-fdsets" };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *set, *fd;
	size_t i, k;
	json_array_foreach (c.ret, i, set) {
		int64_t id = json_integer_value(json_object_get(set, "fdset-id"));
		json_array_foreach (json_object_get(set, "fds"), k, fd) {
			const char *its = json_string_value(json_object_get(fd, "opaque"));
			int64_t number = json_integer_value(json_object_get(fd, "fd"));
			bool meant = its && notes ? list_has(notes, its) : !its && !notes;
			if (meant && set_remove(t, q, id, number) < 0)
				return -1;
		}
	}
	return 0;
}

int disks_settle(struct task *t, struct qmp *q)
{
	return sets_drop(t, q, NULL);
}

/* ---- the switch ---- */

/* For what is tidied up behind a failure or a success: it must change neither. */
static struct task *aside(struct task *t)
{
	return task_new(t, t->name);
}

static int node_add(struct task *t, struct qmp *q, const json_t *layer, bool frozen, int64_t set)
{
	json_t *j = described(t, layer, frozen, (int)set);
	return qmp_do(t, q, "blockdev-add", json_incref(j));
}

/* The file in a set of its own, opened from it, and out again; of one that is written a read-only
 * descriptor stays.  The set's number is kept even when a later step fails: there is something to
 * take back. */
static int file_add(struct task *t, struct qmp *q, const json_t *layer, bool frozen, int64_t *set)
{
	int64_t number, ignored;
	FD_SCOPE int fd = file_open(t, layer, frozen);
	if (fd < 0 || set_add(t, q, fd, -1, NULL, set, &number) < 0)
		return -1;
	FD_SCOPE int later = frozen ? -1 : file_open(t, layer, true);
	if (!frozen && (later < 0 || set_add(t, q, later, *set, node_of(layer), set, &ignored) < 0))
		return -1;
	if (node_add(t, q, layer, frozen, *set) < 0)
		return -1;
	return set_remove(t, q, *set, number);
}

static int layer_open(struct task *t, struct qmp *q, const json_t *layer, bool frozen)
{
	int64_t set = -1;
	if (!node_of(layer))
		return fail(t, INTERNAL_ERROR, "a layer without a node-name");
	if (!path_of(layer))
		return node_add(t, q, layer, frozen, -1);
	if (file_add(t, q, layer, frozen, &set) == 0)
		return 0;
	if (set >= 0)
		set_remove(aside(t), q, set, -1);
	return -1;
}

/* An overlay stands alone until the switch puts it on top. */
static int prepare(struct task *t, struct qmp *q, const json_t *overlay)
{
	json_t *alone = json_own(t, json_copy((json_t *)(uintptr_t)overlay));
	json_object_set_new(alone, "backing", json_null());
	return layer_open(t, q, alone, false);
}

/* ---- whole chains ---- */

static bool complains_of(const struct task *try, const char *text)
{
	return try->code != NO_ERROR && strstr(try->params[0], text);
}

/* 0 also when the node is there already: another disk of the VM stands on it too. */
static int layer_open_once(struct task *t, struct qmp *q, const json_t *layer, bool frozen)
{
	struct task *try = aside(t);
	if (layer_open(try, q, layer, frozen) == 0 || complains_of(try, "Duplicate nodes"))
		return 0;
	return task_fail_params(t, try->code, try->params);
}

int disks_open(struct task *t, struct qmp *q, const json_t *layers, bool read_only)
{
	const json_t *layer;
	size_t i;
	json_array_foreach (layers, i, layer)
		if (layer_open_once(t, q, layer, opened_frozen(layers, layer, read_only)) < 0) {
			disks_close(aside(t), q, layers);
			return -1;
		}
	return 0;
}

int disks_close(struct task *t, struct qmp *q, const json_t *layers)
{
	for (size_t i = json_array_size(layers); i-- > 0;) {
		struct task *try = aside(t);
		if (disks_forget(try, q, node_of(json_array_get(layers, i))) == 0)
			continue;
		if (complains_of(try, "in use") || complains_of(try, "busy"))
			return 0;
		return task_fail_params(t, try->code, try->params);
	}
	return 0;
}

/* QEMU's main loop serves QMP and completes the guest's I/O: commands sent back to back hold the
 * guest up for all of them.  These let it through between a disk and the next, before the instant, and
 * before what is tidied up behind it.  Measured by bench/pause. */
enum { BETWEEN_DISKS_MS = 4, BEFORE_INSTANT_MS = 10, AFTER_INSTANT_MS = 30 };

int disks_prepare(struct task *t, struct qmp *q, size_t n, const struct vmm_switch *s)
{
	for (size_t i = 0; i < n; i++) {
		if (task_wait(t, -1, 0, BETWEEN_DISKS_MS) == 0 && prepare(t, q, s[i].overlay) == 0)
			continue;
		while (i-- > 0)
			disks_forget(aside(t), q, node_of(s[i].overlay));
		return -1;
	}
	return 0;
}

static json_t *transaction(size_t n, const struct vmm_switch *s)
{
	json_t *actions = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(actions,
				      json_pack("{s:s, s:{s:s, s:s}}", "type", "blockdev-snapshot",
						"data", "node", s[i].below, "overlay",
						node_of(s[i].overlay)));
	return json_pack("{s:o}", "actions", actions);
}

static double now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

int disks_switch(struct task *t, struct qmp *q, size_t n, const struct vmm_switch *s,
		 double *ret_pause_ms)
{
	if (task_wait(t, -1, 0, BEFORE_INSTANT_MS) < 0)
		return -1;
	json_t *all = transaction(n, s);
	double start = now_ms();
	if (qmp_do(t, q, "transaction", all) < 0)
		return -1;
	*ret_pause_ms = now_ms() - start;

	/* The old tops are reopened by now; what they were reopened with is used up. */
	struct task *own = aside(t);
	struct list used = { 0 };
	for (size_t i = 0; i < n; i++)
		list_add(own, &used, s[i].below);
	task_wait(own, -1, 0, AFTER_INSTANT_MS);
	sets_drop(own, q, &used);
	return 0;
}

int disks_resize(struct task *t, struct qmp *q, const json_t *layers, uint64_t size)
{
	json_t *a = json_pack("{s:s, s:I}", "node-name", disks_top_node(t, layers), "size",
			      (json_int_t)size);
	return qmp_do(t, q, "block_resize", a);
}

int disks_forget(struct task *t, struct qmp *q, const char *node)
{
	struct task *try = aside(t);
	json_t *a = json_pack("{s:s}", "node-name", node);
	struct qmp_call c = { .command = "blockdev-del", .arguments = a };
	int result = qmp_call(try, q, &c);
	if (result < 0 && !(c.ret_desc && starts_with(c.ret_desc, "Failed to find node")))
		return task_fail_params(t, try->code, try->params);
	struct list notes = { 0 };
	list_add(t, &notes, node);
	return sets_drop(t, q, &notes);
}

int disks_top(struct task *t, struct qmp *q, const char *disk, const char **ret_node)
{
	const char *path = streq(disk, VMM_NVRAM) ? "/machine/system.flash1"
						  : str(t, "/machine/peripheral/%s", disk);
	json_t *a = json_pack("{s:s, s:s}", "path", path, "property", "drive");
	struct qmp_call c = { .command = "qom-get", .arguments = a, .query = true };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const char *node = json_string_value(c.ret);
	*ret_node = talloc_strdup(t, node ? node : "");
	return 0;
}
