// SPDX-License-Identifier: Apache-2.0
/* network.c -- networks, each of which is one of three:
 *
 *     bridge ""           user mode: each interface behind an address translation of QEMU's own
 *     managed             a bridge that we make, and remove with the network
 *     not managed         a bridge of the host's, into which we only put taps
 *
 * The row is what counts, and a bridge of ours follows from it: it is made with the network, and
 * again when an interface needs it and the host was restarted meanwhile.
 *
 * Where the host lets us have no taps, all networks are user mode. */
#include "api/network.h"

#include <ctype.h>

#include "api/blob.h"
#include "api/call.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/takes.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/tap.h"
#include "vmm/vmm.h"

enum { MTU_USUAL = 1500 };

/* ---- the bridge of a network ---- */

static struct bridge bridge_of(struct task *t, const char *name, const char *uuid, int64_t mtu)
{
	return (struct bridge){ .name = name, .address = mac_from_seed(t, uuid, "0"), .mtu = mtu };
}

/* A bridge of ours that is missing is made; look: it need not be there yet. */
static int get_bridge(struct task *t, const struct network_row *n, bool look)
{
	struct link l;
	if (n->managed) {
		struct bridge b = bridge_of(t, n->bridge, n->uuid, n->MTU);
		return look ? bridge_check(t, &b) : bridge_make(t, &b);
	}
	if (link_look(t, n->bridge, &l) < 0)
		return -1;
	return l.is_bridge ? 0 : fail(t, BRIDGE_NOT_AVAILABLE, n->bridge);
}

static int need_bridge(struct task *t, const struct network_row *n)
{
	return get_bridge(t, n, false);
}

/* It is there from the first moment, so that an operator can put something into it; but a host that
 * lets us make none has to be no reason for not having the network. */
static void try_bridge(struct task *t, const struct network_row *n)
{
	struct task *own = task_new(t, t->name);
	if (n->managed && settings.vmm->taps && need_bridge(own, n) < 0)
		log_line(t, "bridge not made network=%s bridge=%s error=\"%s\"", n->uuid, n->bridge,
			 task_error(own));
	talloc_free(own);
}

void network_bridge_remove(struct task *t, const char *bridge, const char *uuid)
{
	struct task *own = task_new(t, t->name);
	struct bridge b = bridge_of(own, bridge, uuid, MTU_USUAL);
	own->undoing = t->undoing;
	if (settings.vmm->taps && bridge_remove(own, &b) < 0)
		log_line(t, "bridge left behind bridge=%s error=\"%s\"", bridge, task_error(own));
	talloc_free(own);
}

/* ---- create ---- */

int network_check_mtu(struct task *t, const struct network_row *n)
{
	if (n->MTU >= LINK_MTU_LEAST && n->MTU <= LINK_MTU_MOST)
		return 0;
	return fail(t, INVALID_VALUE, "MTU", str(t, "%lld", (long long)n->MTU));
}

static bool is_link_name(const char *s)
{
	size_t n = strlen(s);
	for (const char *p = s; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return false;
	return n && n <= LINK_NAME_LIMIT && isalnum((unsigned char)*s);
}

static bool is_taken(struct task *t, const char *bridge)
{
	return *db_find(t, &class_network, "bridge", bridge) != NULL;
}

/* xapi0, xapi1, ...: the first that neither a network nor the host has. */
static const char *free_name(struct task *t)
{
	for (int i = 0;; i++) {
		const char *name = str(t, "xapi%d", i);
		if (!is_taken(t, name) && !link_exists(name))
			return name;
	}
}

/* Fills in what was not given. */
static int look_at_host(struct task *t, struct network_row *n)
{
	struct link l = { .mtu = MTU_USUAL };
	if (!n->managed && link_look(t, n->bridge, &l) < 0)
		return -1;
	if (!n->managed && !l.is_bridge)
		return fail(t, BRIDGE_NOT_AVAILABLE, n->bridge);
	/* A bridge takes the least MTU of its members: a tap must not lower it. */
	if (!n->MTU)
		n->MTU = l.mtu;
	return network_check_mtu(t, n);
}

static int insert(struct task *t, struct network_row *n)
{
	DB_SCOPE(t);
	if (!*n->bridge)
		n->bridge = free_name(t);
	else if (is_taken(t, n->bridge) || (n->managed && link_exists(n->bridge)))
		return fail(t, BRIDGE_NAME_EXISTS, n->bridge);
	if (db_insert(t, &n->row) < 0)
		return -1;
	return db_commit(t);
}

int network_create(struct task *t, struct network_create *a)
{
	struct network_row *n = row_new(t, network);
	n->name_label = a->name_label;
	n->name_description = a->name_description;
	n->MTU = a->MTU;
	n->other_config = a->other_config;
	n->bridge = a->bridge;
	n->managed = a->managed;
	n->tags = a->tags;
	if ((*n->bridge || !n->managed) && !is_link_name(n->bridge))
		return fail(t, INVALID_VALUE, "bridge", n->bridge);
	if (look_at_host(t, n) < 0 || insert(t, n) < 0)
		return -1;
	try_bridge(t, n);
	a->result = n->row.ref;
	return 0;
}

/* ---- destroy ---- */

/* An interface of a snapshot counts: a revert brings it back. */
static int check_unused(struct task *t, const struct network_row *n)
{
	struct list vifs = { 0 };
	DB_EACH (t, VIF, vif, "network", n->row.ref)
		list_add(t, &vifs, vif->row.ref);
	if (!vifs.n)
		return 0;
	list_add(t, &vifs, NULL); /* the end */
	return task_fail_params(t, NETWORK_CONTAINS_VIF, vifs.v);
}

static int remove_bridge_later(struct task *t, const struct network_row *n)
{
	if (!n->managed)
		return 0;
	const char *op = undo_later(t);
	int noted = undo_bridge_remove(t, n->bridge, n->uuid);
	undo_now(t, op);
	return noted;
}

int network_destroy(struct task *t, struct network_destroy *a)
{
	DB_SCOPE(t);
	struct network_row *n = db_get(t, network, a->self);
	if (!n)
		return -1;
	if (!*n->bridge)
		return fail(t, CANNOT_DESTROY_SYSTEM_NETWORK, n->row.ref);
	if (check_unused(t, n) < 0 || remove_bridge_later(t, n) < 0 || blobs_drop(t, a->self) < 0 ||
	    db_delete(t, &n->row) < 0)
		return -1;
	return db_commit(t);
}

/* ---- an interface ---- */

static int say(struct task *t, const struct VM_row *vm, const struct VIF_row *of, const char *how)
{
	DB_SCOPE(t);
	struct VIF_row *vif = db_get(t, VIF, of->row.ref);
	if (!vif)
		return -1;
	log_line(t, "interface joined vm=%s device=%s network=\"%s\"", vm->uuid, vif->device, how);
	if (streq(vif->status_detail, how))
		return 0;
	vif->status_detail = how;
	if (db_put(t, &vif->row) < 0)
		return -1;
	return db_commit(t);
}

/* Whose it is can be seen from its name. */
static const char *tap_name(struct task *t, const struct VM_row *vm, const struct VIF_row *vif)
{
	const char *uuid = vm->uuid;
	return str(t, "tap%.8s%.2s.%s", uuid, uuid + 9, vif->device);
}

static int join(struct task *t, const struct VM_row *vm, const struct VIF_row *vif,
		const struct network_row *n)
{
	const char *name = tap_name(t, vm, vif);
	if (need_bridge(t, n) < 0 || tap_join(t, name, n->bridge, vif->MAC, n->MTU) < 0)
		return -1;
	return say(t, vm, vif, str(t, "bridge %s, tap %s", n->bridge, name));
}

/* A record may say what cannot be set any more, for it is older, or a snapshot's.  An interface that is to be locked
 * runs locked or not at all. */
static int check_lock(struct task *t, const struct VIF_row *vif, const struct network_row *n)
{
	const struct field *own = model_field(&class_VIF, "locking_mode");
	const struct field *usual = model_field(&class_network, "default_locking_mode");
	if (takes_check(t, &vif->row, own, NULL) < 0)
		return -1;
	return vif->locking_mode == vif_locking_mode_network_default
		       ? takes_check(t, &n->row, usual, NULL)
		       : 0;
}

int network_tap(struct task *t, const struct VM_row *vm, const struct VIF_row *vif, int *ret_fd)
{
	const char *name = tap_name(t, vm, vif), *why;
	struct network_row *n = db_get(t, network, vif->network);
	*ret_fd = -1;
	if (!n || check_lock(t, vif, n) < 0)
		return -1;
	if (!*n->bridge || !settings.vmm->taps)
		return say(t, vm, vif, "user mode");

	FD_SCOPE int fd = -1;
	int opened = tap_open(t, name, &fd, &why);
	if (opened < 0)
		return -1;
	if (!opened)
		return say(t, vm, vif,
			   str(t, "user mode instead of bridge %s: %s", n->bridge, why));
	if (join(t, vm, vif, n) < 0)
		return -1;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int network_check(struct task *t, const struct VIF_row *vif)
{
	const struct network_row *n = db_get(t, network, vif->network);
	if (!n || check_lock(t, vif, n) < 0)
		return -1;
	bool has_tap = *n->bridge && settings.vmm->taps && tap_possible();
	return has_tap ? get_bridge(t, n, true) : 0;
}

/* ---- from one network to another ---- */

static bool has_tap(struct task *t, const struct VM_row *vm, const struct VIF_row *vif)
{
	return vif->currently_attached && link_exists(tap_name(t, vm, vif));
}

int network_rejoin(struct task *t, const char *ref)
{
	const struct VIF_row *vif = db_seek(t, VIF, ref);
	const struct VM_row *vm = vif ? db_seek(t, VM, vif->VM) : NULL;
	const struct network_row *n = vm ? db_seek(t, network, vif->network) : NULL;
	return n && *n->bridge && has_tap(t, vm, vif) ? join(t, vm, vif, n) : 0;
}

/* QEMU's own end stays as it is: a tap, or user mode. */
static int check_ends(struct task *t, const struct VM_row *vm, const struct VIF_row *vif,
		      const struct network_row *to)
{
	const struct network_row *from = db_seek(t, network, vif->network);
	bool was = from && *from->bridge, becomes = *to->bridge;
	if (!vif->currently_attached || !vm_has_process(vm) || !settings.vmm->taps ||
	    was == becomes)
		return 0;
	return fail(t, OPERATION_NOT_ALLOWED,
		    "Between a bridge and a network without one an interface moves only while it "
		    "is not attached: unplug it first.");
}

static int record(struct task *t, struct VIF_move *a)
{
	DB_SCOPE(t);
	struct VIF_row *vif = db_get(t, VIF, a->self);
	const struct network_row *to = vif ? db_get(t, network, a->network) : NULL;
	if (!to)
		return -1;
	vif->network = a->network;
	vif->MTU = to->MTU;
	if (db_put(t, &vif->row) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

static int move(struct task *t, struct VIF_move *a, const struct VIF_row *vif)
{
	const struct VM_row *vm = db_get(t, VM, vif->VM);
	const struct network_row *to = db_get(t, network, a->network);
	if (!vm || !to || check_ends(t, vm, vif, to) < 0)
		return -1;
	if (vm->is_a_snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, "move");
	if (*to->bridge && has_tap(t, vm, vif) &&
	    (undo_network_settle(t, a->self) < 0 || join(t, vm, vif, to) < 0))
		return -1;
	return record(t, a);
}

int VIF_move(struct task *t, struct VIF_move *a)
{
	const struct row *r = operation_begin_device(t, &class_VIF, a->self, "attach");
	return r ? move(t, a, (const struct VIF_row *)r) : -1;
}
