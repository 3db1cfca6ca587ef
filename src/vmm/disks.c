// SPDX-License-Identifier: Apache-2.0
#include "vmm/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "base/crash.h"
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

const json_t *disks_layer(const json_t *layers, const char *node)
{
	const json_t *layer;
	size_t i;
	json_array_foreach (layers, i, layer)
		if (node_of(layer) && streq(node_of(layer), node))
			return layer;
	return NULL;
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

/* The number of the set that a layer's file is to come in: a hash of the node's name (FNV-1a), behind
 * the small ones that others get.  So it is known without QEMU's list of nodes, which holds up the guest
 * for 30 ms at 30 layers and for 3 s at 200. */
static int set_of(const char *node)
{
	enum { FIRST = 1 << 16 };
	uint32_t hash = 2166136261;
	for (; *node; node++)
		hash = (hash ^ (unsigned char)*node) * 16777619;
	return FIRST + (int)(hash % (INT_MAX - FIRST));
}

/* What the file's node is called when it came in that set.  Two names can have one number: the second
 * gets another set then, its file's node no name, and nobody takes the one set for the other. */
static const char *file_node(struct task *t, const char *node)
{
	return str(t, "%s.f", node);
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
		if (set == set_of(node_of(layer)))
			json_object_set_new(file, "node-name",
					    json_string(file_node(t, node_of(layer))));
		json_object_del(file, "read-only");
	}
	return j;
}

/* For people: where it is told as a path by a descriptor, that says nothing to them. */
static const char *name_of(const json_t *layer)
{
	const char *slash = strrchr(path_of(layer), '/');
	return slash ? slash + 1 : path_of(layer);
}

/* QEMU takes from a set the descriptor that has the access and the directness it wants.  Whoever
 * described the layer has seen a file by that name: a link in its place has come since. */
static int file_open(struct task *t, const json_t *layer, bool frozen)
{
	const json_t *cache = json_object_get(json_object_get(layer, "file"), "cache");
	bool direct = json_is_true(json_object_get(cache, "direct"));
	int fd = open(path_of(layer), (frozen ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0) |
					      O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? task_fail_errno(t, errno, name_of(layer)) : fd;
}

/* ---- at the start ---- */

/* fd in the set that is meant for the node, unless one of the others has that number. */
static int set_args(struct args *a, int fd, const char *node, const struct list *others)
{
	int set = set_of(node);
	for (size_t i = 0; i < others->n; i++)
		if (set_of(others->v[i]) == set)
			return args_set(a, fd);
	args_fd_in_set(a, fd, set, NULL);
	return set;
}

static int layer_args(struct task *t, struct args *a, const json_t *layer, bool frozen,
		      const struct list *others)
{
	const char *path = path_of(layer);
	int set = -1;
	if (path) {
		int fd = file_open(t, layer, frozen);
		if (fd < 0)
			return -1;
		set = set_args(a, fd, node_of(layer), others);
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
		if (layer_args(t, a, layer, opened_frozen(layers, layer, read_only), done) < 0)
			return -1;
		list_add(t, done, node);
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

/* ---- before a start ---- */

/* As layer_args() opens them. */
static int chain_check(struct task *t, const json_t *layers, bool read_only)
{
	const json_t *layer;
	size_t i;
	json_array_foreach (layers, i, layer) {
		FD_SCOPE int fd = -1;
		bool frozen = opened_frozen(layers, layer, read_only);
		if (path_of(layer) && (fd = file_open(t, layer, frozen)) < 0)
			return -1;
	}
	return 0;
}

int disks_check(struct task *t, const struct vmm_config *c)
{
	for (size_t i = 0; i < c->ndisks; i++)
		if (chain_check(t, c->disks[i].layers, c->disks[i].read_only) < 0)
			return -1;
	if (chain_check(t, c->firmware.code, true) < 0)
		return -1;
	return chain_check(t, c->firmware.vars, c->firmware.read_only);
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

static int set_remove(struct task *t, struct qmp *q, int64_t set, int64_t fd)
{
	return qmp_do(t, q, "remove-fd",
		      json_pack("{s:I, s:I}", "fdset-id", (json_int_t)set, "fd", (json_int_t)fd));
}

/* The set that is meant for the node; -1, a new one, when the number is taken: by this node, which
 * is open already then, or by another one. */
static int set_choose(struct task *t, struct qmp *q, const char *node, int64_t *ret)
{
	struct qmp_call c = { .command = "query-fdsets" };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *set;
	size_t i;
	*ret = set_of(node);
	json_array_foreach (c.ret, i, set)
		if (json_integer_value(json_object_get(set, "fdset-id")) == set_of(node))
			*ret = -1;
	return 0;
}

/* notes NULL: those without a note. */
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

/* ---- opening and closing ---- */

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

/* Our descriptors in a set; -1: not yet there. */
struct given {
	int64_t set, now, later;
};

/* The file in a set of its own, opened from it, and out again; of one that is written a read-only
 * descriptor stays.  What was given is told even when a later step fails: there is something to
 * take back. */
static int file_add(struct task *t, struct qmp *q, const json_t *layer, bool frozen,
		    struct given *g)
{
	const char *node = node_of(layer);
	FD_SCOPE int fd = file_open(t, layer, frozen);
	if (fd < 0 || set_choose(t, q, node, &g->set) < 0 ||
	    set_add(t, q, fd, g->set, NULL, &g->set, &g->now) < 0)
		return -1;
	FD_SCOPE int later = frozen ? -1 : file_open(t, layer, true);
	if (!frozen && (later < 0 || set_add(t, q, later, g->set, node, &g->set, &g->later) < 0))
		return -1;
	if (node_add(t, q, layer, frozen, g->set) < 0)
		return -1;
	return set_remove(t, q, g->set, g->now);
}

static int layer_open(struct task *t, struct qmp *q, const json_t *layer, bool frozen)
{
	struct given g = { -1, -1, -1 };
	if (!node_of(layer))
		return fail(t, INTERNAL_ERROR, "a layer without a node-name");
	if (!path_of(layer))
		return node_add(t, q, layer, frozen, -1);
	if (file_add(t, q, layer, frozen, &g) == 0)
		return 0;
	if (g.now >= 0)
		set_remove(aside(t), q, g.set, g.now);
	if (g.later >= 0)
		set_remove(aside(t), q, g.set, g.later);
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

int disks_close_nodes(struct task *t, struct qmp *q, const struct list *nodes)
{
	for (size_t i = 0; i < nodes->n; i++) {
		struct task *try = aside(t);
		if (disks_forget(try, q, nodes->v[i]) == 0)
			continue;
		if (complains_of(try, "in use") || complains_of(try, "busy"))
			return 0;
		return task_fail_params(t, try->code, try->params);
	}
	return 0;
}

int disks_close(struct task *t, struct qmp *q, const json_t *layers)
{
	struct list nodes = { 0 };
	for (size_t i = json_array_size(layers); i-- > 0;)
		list_add(t, &nodes, node_of(json_array_get(layers, i)));
	return disks_close_nodes(t, q, &nodes);
}

/* ---- frozen layers that are written ---- */

/* Fails when the file is not in the set that is meant for its node.  The command switches off what is off,
 * but refuses a node that is not there. */
static int set_is_its(struct task *t, struct qmp *q, const char *node)
{
	return qmp_do(t, q, "block-set-write-threshold",
		      json_pack("{s:s, s:i}", "node-name", file_node(t, node), "write-threshold",
				0));
}

int disks_lend(struct task *t, struct qmp *q, const json_t *layer, const char *writing,
	       const char *reading)
{
	int64_t set = set_of(node_of(layer)), ignored;
	if (!path_of(layer))
		return 0;
	FD_SCOPE int read = file_open(t, layer, true);
	FD_SCOPE int write = read < 0 ? -1 : file_open(t, layer, false);
	if (write < 0 || set_is_its(t, q, node_of(layer)) < 0 ||
	    set_add(t, q, read, set, reading, &set, &ignored) < 0)
		return -1;
	return set_add(t, q, write, set, writing, &set, &ignored);
}

int disks_lent(struct task *t, struct qmp *q, const char *note)
{
	struct qmp_call c = { .command = "query-fdsets" };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *set, *fd;
	size_t i, k;
	json_array_foreach (c.ret, i, set)
		json_array_foreach (json_object_get(set, "fds"), k, fd) {
			const char *its = json_string_value(json_object_get(fd, "opaque"));
			if (its && streq(its, note))
				return 1;
		}
	return 0;
}

int disks_take_back(struct task *t, struct qmp *q, const struct list *notes)
{
	return sets_drop(t, q, notes);
}

int disks_take_back_one(struct task *t, struct qmp *q, const char *note)
{
	struct list notes = { 0 };
	list_add(t, &notes, note);
	return sets_drop(t, q, &notes);
}

const char *disks_side(struct task *t, const char *node)
{
	return str(t, "%s.s", node);
}

/* Its file keeps what it was opened with, but for the access, which it takes from the layer. */
static int reopen(struct task *t, struct qmp *q, const char *node, const char *below, bool frozen)
{
	json_t *layer =
		json_pack("{s:s, s:s, s:b, s:b, s:s, s:s, s:s?}", "driver", "qcow2", "node-name",
			  node, "read-only", frozen, "auto-read-only", false, "discard", "unmap",
			  "file", file_node(t, node), "backing", *below ? below : NULL);
	return qmp_do(t, q, "blockdev-reopen", json_pack("{s:[o]}", "options", layer));
}

/* The filter throttles nothing: of those that pass all through it is one that is always there. */
static int filter_add(struct task *t, struct qmp *q, const char *name, const char *node)
{
	json_t *filter = json_pack("{s:s, s:s, s:s, s:s}", "driver", "throttle", "node-name", name,
				   "throttle-group", DISKS_SIDE_GROUP, "file", node);
	return qmp_do(t, q, "blockdev-add", filter);
}

int disks_side_open(struct task *t, struct qmp *q, const char *node, const char *below)
{
	if (filter_add(t, q, disks_side(t, node), node) < 0)
		return -1;
	crash_point();
	return reopen(t, q, node, below, false);
}

int disks_side_close(struct task *t, struct qmp *q, const char *node, const char *below)
{
	return reopen(t, q, node, below, true);
}

/* When somebody comes to a node, QEMU looks at how its file is open, and opens it anew if it does not know. */
static int remind(struct task *t, struct qmp *q, const char *node)
{
	const char *name = str(t, "%s.n", node);
	if (disks_forget(t, q, name) < 0 || filter_add(t, q, name, node) < 0)
		return -1;
	crash_point();
	return disks_forget(t, q, name);
}

int disks_side_settle(struct task *t, struct qmp *q, const char *node, const char *below)
{
	if (disks_side_close(t, q, node, below) < 0)
		return -1;
	crash_point();
	return remind(t, q, node);
}

int disks_sync(struct task *t, const json_t *layer, enum sync_site site)
{
	return path_of(layer) ? file_datasync(t, path_of(layer), site) : 0;
}

const char *disks_filter(struct task *t, const char *node)
{
	return str(t, "%s.m", node);
}

/* ---- the switch ---- */

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
	return task_wait(t, -1, 0, BEFORE_INSTANT_MS) < 0 ? -1 : 0;
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

int disks_instant(struct task *t, struct qmp *q, size_t n, const struct vmm_switch *s)
{
	return qmp_do(t, q, "transaction", transaction(n, s));
}

int disks_switch(struct task *t, struct qmp *q, size_t n, const struct vmm_switch *s,
		 double *ret_pause_ms)
{
	double start = clock_exact_ms();
	if (disks_instant(t, q, n, s) < 0)
		return -1;
	*ret_pause_ms = clock_exact_ms() - start;
	return 0;
}

/* The old tops are reopened by now; what they were reopened with is used up. */
void disks_tidy(struct task *t, struct qmp *q, size_t n, const struct vmm_switch *s)
{
	struct task *own = aside(t);
	struct list used = { 0 };
	for (size_t i = 0; i < n; i++)
		list_add(own, &used, s[i].below);
	task_wait(own, -1, 0, AFTER_INSTANT_MS);
	sets_drop(own, q, &used);
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
	return disks_take_back_one(t, q, node);
}

int disks_top(struct task *t, struct qmp *q, const char *disk, const char **ret_node)
{
	const char *path = streq(disk, VMM_NVRAM) ? "/machine/system.flash1"
						  : str(t, "/machine/peripheral/%s", disk);
	json_t *a = json_pack("{s:s, s:s}", "path", path, "property", "drive");
	struct qmp_call c = { .command = "qom-get", .arguments = a, .query = true };
	struct task *try = aside(t);
	if (qmp_call(try, q, &c) < 0 && !(c.ret_class && streq(c.ret_class, "DeviceNotFound")))
		return task_fail_params(t, try->code, try->params);
	const char *node = try->code == NO_ERROR ? json_string_value(c.ret) : "";
	char *name = talloc_strdup(t, node ? node : "");
	if (ends_with(name, ".m"))
		name[strlen(name) - 2] = 0;
	*ret_node = name;
	return 0;
}
