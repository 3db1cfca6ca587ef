// SPDX-License-Identifier: Apache-2.0
#include "api/undo.h"

#include <pthread.h>

#include "api/blob.h"
#include "api/cd.h"
#include "api/guests.h"
#include "api/jobs.h"
#include "api/step.h"
#include "api/network.h"
#include "api/operation.h"
#include "api/plug.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/tree.h"
#include "api/uninstall.h"
#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* ---- writing rows ---- */

int undo_operation_end(struct task *t, const char *class, const char *ref)
{
	return journal_add(t, "OPERATION_END", class, ref, NULL);
}

int undo_vol_delete(struct task *t, const char *sr, const char *volume, const char *vm)
{
	return journal_add(t, "VOL_DELETE", sr, volume, vm, NULL);
}

int undo_overlay_keep(struct task *t, const char *vm, const char *vdi, const char *disk,
		      const char *below, const char *overlay)
{
	return journal_add(t, "OVERLAY_KEEP", vm, vdi, disk, below, overlay, NULL);
}

int undo_guest_kill(struct task *t, const char *vm)
{
	return journal_add(t, "GUEST_KILL", vm, NULL);
}

int undo_guest_remove(struct task *t, const char *uuid)
{
	return journal_add(t, "GUEST_REMOVE", uuid, NULL);
}

int undo_template_delete(struct task *t, const char *vm)
{
	return journal_add(t, "TEMPLATE_DELETE", vm, NULL);
}

int undo_vm_resume(struct task *t, const char *vm)
{
	return journal_add(t, "VM_RESUME", vm, NULL);
}

int undo_guest_thaw(struct task *t, const char *vm)
{
	return journal_add(t, "GUEST_THAW", vm, NULL);
}

int undo_device_settle(struct task *t, const char *class, const char *ref)
{
	return journal_add(t, "DEVICE_SETTLE", class, ref, NULL);
}

int undo_network_settle(struct task *t, const char *vif)
{
	return journal_add(t, "NETWORK_SETTLE", vif, NULL);
}

int undo_record_delete(struct task *t, const char *class, const char *ref)
{
	return journal_add(t, "RECORD_DELETE", class, ref, NULL);
}

int undo_sr_detach(struct task *t, const char *sr)
{
	return journal_add(t, "SR_DETACH", sr, NULL);
}

int undo_sr_mark(struct task *t, const char *sr)
{
	return journal_add(t, "SR_MARK", sr, NULL);
}

int undo_sr_let_go(struct task *t, const char *sr)
{
	return journal_add(t, "SR_LET_GO", sr, NULL);
}

int undo_medium_settle(struct task *t, const char *vbd, const char *vdi)
{
	return journal_add(t, "MEDIUM_SETTLE", vbd, vdi, NULL);
}

int undo_size_settle(struct task *t, const char *vm, const char *vdi)
{
	return journal_add(t, "SIZE_SETTLE", vm, vdi, NULL);
}

int undo_merge_settle(struct task *t, const struct step *s)
{
	return journal_add(t, "MERGE_SETTLE", s->sr, s->vm, s->disk, s->down ? "down" : "up",
			   s->upper, s->lower, s->above, list_join(t, &s->dropped, ","), NULL);
}

int undo_link_settle(struct task *t, const char *sr, const char *volume)
{
	return journal_add(t, "LINK_SETTLE", sr, volume, NULL);
}

int undo_blob_delete(struct task *t, const char *file)
{
	return journal_add(t, "BLOB_DELETE", file, NULL);
}

int undo_bridge_remove(struct task *t, const char *bridge, const char *network)
{
	return journal_add(t, "BRIDGE_REMOVE", bridge, network, NULL);
}

/* ---- the verbs ---- */

typedef const char *const *args;

static int operation_end_now(struct task *t, args a, const char *op)
{
	DB_SCOPE(t);
	struct row *r = db_seek_row(t, model_class(a[0]), a[1]);
	if (!r)
		return 0;
	map_remove(field_map(r, model_field(r->class, "current_operations")), op);
	if (db_put(t, r) < 0)
		return -1;
	return db_commit(t);
}

static int vol_delete(struct task *t, args a, const char *op)
{
	(void)op;
	if (storage_owner(t, a[1]))
		return 0;
	const struct sr *sr = storage_sr(t, a[0]);
	if (!sr)
		return -1;
	struct vmm *vmm = NULL;
	if (*a[2] && guest_find(t, t, a[2], &vmm) < 0)
		return -1;
	if (vmm && settings.vmm->forget(t, vmm, volume_node(t, a[1])) < 0) {
		/* A VM that ended meanwhile has it open no more; one that runs keeps it. */
		if (guest_alive(a[2]))
			return -1;
		task_forgive(t);
	}
	return sr->layout->remove(t, sr, a[1]);
}

/* Does the VM's disk still write `below`?  If not, the VM has been told that.  With no VM left to ask the answer is no: the switch
 * may have happened, and an overlay without writes reads as what is below it. */
static int still_below(struct task *t, args a, bool *ret)
{
	const char *node;
	struct vmm *vmm;
	*ret = false;
	if (guest_find(t, t, a[0], &vmm) < 0)
		return -1;
	if (!vmm)
		return 0;
	if (settings.vmm->top(t, vmm, a[2], &node) < 0)
		return -1;
	*ret = streq(node, volume_node(t, a[3]));
	return *ret ? 0 : settings.vmm->settle(t, vmm, volume_node(t, a[3]));
}

/* The guest ended while it was asked: that is an answer too. */
static int still_below_or_ended(struct task *t, args a, bool *ret)
{
	if (still_below(t, a, ret) == 0)
		return 0;
	if (!guest_ends(a[0]))
		return -1;
	task_forgive(t);
	*ret = false;
	return 0;
}

static int overlay_keep(struct task *t, args a, const char *op)
{
	(void)op;
	bool below;
	if (still_below_or_ended(t, a, &below) < 0)
		return -1;
	if (below)
		return 0;
	DB_SCOPE(t);
	struct VDI_row *vdi = db_seek(t, VDI, a[1]);
	if (!vdi || !streq(vdi->location, a[3]))
		return 0;
	const char *parent = vdi->parent_location;
	vdi->location = a[4];
	vdi->parent_location = a[3];
	if (db_put(t, &vdi->row) < 0 || storage_hide(t, vdi, a[3], parent) < 0)
		return -1;
	log_line(t, "overlay kept as the top vdi=%s volume=%s", vdi->uuid, a[4]);
	return db_commit(t);
}

static int guest_kill(struct task *t, args a, const char *op)
{
	(void)op;
	if (guest_stop(t, a[0]) < 0)
		return -1;
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, a[0]);
	if (!vm)
		return 0;
	int marked = vm->power_state == vm_power_state_Suspended ? guest_mark_suspended(t, vm)
								 : guest_mark_halted(t, vm);
	return marked < 0 ? -1 : db_commit(t);
}

/* A VM that has come back by a revert has the uuid that it had. */
static int guest_remove(struct task *t, args a, const char *op)
{
	const char *dir = str(t, "%s/run/%s", settings.state, a[0]);
	(void)op;
	if (*db_find(t, &class_VM, "uuid", a[0]))
		return 0;
	return settings.vmm->kill(t, a[0], dir) < 0 ? -1 : dir_remove(t, dir);
}

static int template_delete(struct task *t, args a, const char *op)
{
	const struct VM_row *vm = db_seek(t, VM, a[0]);
	struct doomed d = { 0 };
	(void)op;
	if (!vm || !vm->is_a_template)
		return 0;
	doomed_add(t, &d, vm, false);
	doomed_spare(t, &d);
	return doomed_delete(t, &d);
}

/* The row says what the guest did, or is to do; the process stands still where we were stopped. */
static int vm_resume(struct task *t, args a, const char *op)
{
	(void)op;
	struct vmm *vmm;
	enum vmm_status status;
	if (guest_find(t, t, a[0], &vmm) < 0)
		return -1;
	if (!vmm)
		return 0;
	if (settings.vmm->status(t, vmm, &status) < 0 ||
	    (status == VMM_PAUSED && settings.vmm->resume(t, vmm) < 0)) {
		if (!guest_ends(a[0]))
			return -1;
		task_forgive(t);
		return 0;
	}
	return guest_settle_state(t, a[0]) < 0 ? -1 : quiesce_release(t, a[0]);
}

static int guest_thaw(struct task *t, args a, const char *op)
{
	(void)op;
	return quiesce_thaw_vm(t, a[0]);
}

static int device_settle(struct task *t, args a, const char *op)
{
	(void)op;
	return plug_settle(t, model_class(a[0]), a[1]);
}

static int network_settle(struct task *t, args a, const char *op)
{
	(void)op;
	return network_rejoin(t, a[0]);
}

static int record_delete(struct task *t, args a, const char *op)
{
	(void)op;
	DB_SCOPE(t);
	struct row *r = db_seek_row(t, model_class(a[0]), a[1]);
	if (!r)
		return 0;
	if (r->class == &class_SR && db_delete_all(t, &class_PBD, "SR", r->ref) < 0)
		return -1;
	if (db_delete(t, r) < 0)
		return -1;
	return db_commit(t);
}

/* One that cannot be removed does no harm, and is no reason to try for ever. */
static int blob_delete(struct task *t, args a, const char *op)
{
	(void)op;
	return blob_file_delete(t, a[0]);
}

static int bridge_remove(struct task *t, args a, const char *op)
{
	(void)op;
	network_bridge_remove(t, a[0], a[1]);
	return 0;
}

static struct PBD_row *pbd_of(struct task *t, const char *sr)
{
	return *(struct PBD_row **)db_find(t, &class_PBD, "SR", sr);
}

static int sr_detach(struct task *t, args a, const char *op)
{
	(void)op;
	struct SR_row *row = db_seek(t, SR, a[0]);
	struct PBD_row *pbd = row ? pbd_of(t, a[0]) : NULL;
	if (row && !pbd)
		storage_detach(row->uuid);
	return pbd ? storage_unmake(t, row, &pbd->device_config) : 0;
}

/* It has no volumes, so that there is nothing to mix up in a place that lacks the mark. */
static int sr_mark(struct task *t, args a, const char *op)
{
	(void)op;
	struct SR_row *row = db_seek(t, SR, a[0]);
	struct PBD_row *pbd = row ? pbd_of(t, a[0]) : NULL;
	if (!pbd)
		return 0;
	if (pbd->currently_attached)
		return storage_attach(t, row, &pbd->device_config, true);
	return storage_restore(t, row, &pbd->device_config);
}

/* A place that cannot be had is no reason to try for ever: who plugs the SR elsewhere is told
 * whom it names. */
static int sr_let_go(struct task *t, args a, const char *op)
{
	(void)op;
	struct SR_row *row = db_seek(t, SR, a[0]);
	if (!row || storage_leave(t, row) == 0)
		return 0;
	log_line(t, "sr's mark may still name this host sr=%s error=\"%s\"", row->uuid,
		 task_error(t));
	task_forgive(t);
	return 0;
}

static int medium_settle(struct task *t, args a, const char *op)
{
	(void)op;
	return cd_settle(t, a[0], a[1]);
}

/* A VM does one thing after the other: when it answers, it has ended what it was told before. */
static int size_settle(struct task *t, args a, const char *op)
{
	(void)op;
	enum vmm_status unused;
	struct vmm *vmm = NULL;
	if (*a[0] && guest_find(t, t, a[0], &vmm) < 0)
		return -1;
	if (vmm && settings.vmm->status(t, vmm, &unused) < 0) {
		if (!guest_ends(a[0]))
			return -1;
		task_forgive(t);
	}
	return storage_settle_size(t, a[1]);
}

static int merge_settle_now(struct task *t, args a, const char *op)
{
	(void)op;
	return step_settle(t, a);
}

static int link_settle(struct task *t, args a, const char *op)
{
	(void)op;
	const struct sr *sr = storage_sr(t, a[0]);
	const struct VDI_row *vdi = storage_owner(t, a[1]);
	return !sr ? -1 : !vdi ? 0 : sr->layout->relink(t, sr, a[1], vdi->parent_location);
}

static const struct verb {
	const char *name;
	int (*replay)(struct task *, args, const char *op);
	const char *args;
	bool needed;
} verbs[] = {
#define operation_end operation_end_now
#define merge_settle merge_settle_now
#define VERB(name, function, args, needed) { #name, function, args, needed },
#include "api/undo.def"
#undef operation_end
#undef merge_settle
};

/* ---- deeds to come ---- */

const char *undo_later(struct task *t)
{
	const char *op = t->op;
	t->op = str(t, "%s+", op);
	return op;
}

void undo_now(struct task *t, const char *op)
{
	t->op = op;
}

void undo_after(struct task *t)
{
	const char *op = undo_later(t);
	undo_run(t);
	undo_now(t, op);
}

/* ---- replay ---- */

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < COUNT(verbs); i++)
		if (streq(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static int replay_row(struct task *t, const struct journal_row *j)
{
	const struct verb *v = find_verb(j->verb);
	size_t wanted = 1;
	for (const char *p = v ? v->args : ""; *p; p++)
		wanted += *p == ' ';
	if (!v || j->args.n != wanted)
		return fail(t, INTERNAL_ERROR,
			    str(t, "journal row %s: %s is not known", j->nr, j->verb));
	crash_point();
	return v->replay(t, j->args.v, j->op);
}

/* The rows of one operation, behind the mark ("": all).  What fails stays, and is tried again
 * (tasks_retry_undo, the next start); where older rows rely on it they stay too: a VM of which
 * nobody knows which layer it writes remains busy. */
static int replay(struct task *t, const char *op, const char *mark)
{
	int result = 0;
	struct task *own = task_new(t, "undo");
	own->undoing = 1;
	own->op = op;
	for (struct journal_row *j = journal_rows(own, op); j->nr && !streq(j->nr, mark); j++) {
		if (replay_row(own, j) == 0 && journal_remove(own, j->nr) == 0)
			continue;
		result = -1;
		log_line(own, "undo failed verb=%s op=%s error=\"%s\"", j->verb, op,
			 task_error(own));
		task_forgive(own);
		const struct verb *v = find_verb(j->verb);
		if (!v || v->needed)
			break;
	}
	talloc_free(own);
	return result;
}

void undo_run(struct task *t)
{
	replay(t, t->op, "");
}

const char *undo_mark(struct task *t)
{
	const char *newest = journal_rows(t, t->op)->nr;
	return newest ? newest : "";
}

int undo_back(struct task *t, const char *mark)
{
	return replay(t, t->op, mark);
}

/* ---- behind calls ---- */

/* An operation whose rows a thread of its own replays. */
struct undone {
	struct undone *next;
	const char *op;
};

static struct {
	pthread_mutex_t lock; /* nothing else is locked under it */
	pthread_cond_t changed;
	struct undone *first;
} undoing = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* The place of the operation on the list, or its end; lock held. */
static struct undone **place_of(const char *op)
{
	struct undone **at = &undoing.first;
	while (*at && !streq((*at)->op, op))
		at = &(*at)->next;
	return at;
}

static bool enlist(const char *op)
{
	pthread_mutex_lock(&undoing.lock);
	struct undone **at = place_of(op);
	bool is_new = !*at;
	if (is_new) {
		*at = talloc_zero(NULL, struct undone);
		(*at)->op = talloc_strdup(*at, op);
	}
	pthread_mutex_unlock(&undoing.lock);
	return is_new;
}

static void delist(const char *op)
{
	pthread_mutex_lock(&undoing.lock);
	struct undone **at = place_of(op), *u = *at;
	*at = u->next;
	talloc_free(u);
	pthread_cond_broadcast(&undoing.changed);
	pthread_mutex_unlock(&undoing.lock);
}

/* Deeds to come stand under the operation's name with a + behind, and are done after it; what one of them leaves to be done
 * stands under two. */
static int replay_behind(struct task *t, const char *op)
{
	enum { DEEDS_OF_DEEDS = 2 };
	t->op = op;
	for (int i = 0; i <= DEEDS_OF_DEEDS; i++) {
		undo_run(t);
		undo_later(t);
	}
	t->op = "";
	delist(op);
	return 0;
}

void undo_behind(struct task *t, const char *name)
{
	const char *op = talloc_strndup(t, name, strcspn(name, "+"));
	if (enlist(op) && !jobs_start("undo", replay_behind, op, 0))
		delist(op);
}

void undo_all(struct task *t)
{
	struct list ops = { 0 };
	for (struct journal_row *j = journal_rows(t, NULL); j->nr; j++)
		list_put(t, &ops, j->op);
	for (size_t i = 0; i < ops.n; i++) {
		log_line(t, "operation undone op=%s", ops.v[i]);
		undo_behind(t, ops.v[i]);
	}
}

int undo_await(struct task *t)
{
	for (;;) {
		pthread_mutex_lock(&undoing.lock);
		bool waits = undoing.first;
		if (waits)
			clock_wait(&undoing.changed, &undoing.lock,
				   clock_ms() + delay_ms(DELAY_SETTLE_LOOK));
		pthread_mutex_unlock(&undoing.lock);
		if (!waits || task_check(t) < 0)
			return waits ? -1 : 0;
	}
}
