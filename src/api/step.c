// SPDX-License-Identifier: Apache-2.0
#include "api/step.h"

#include "api/call.h"
#include "api/guests.h"
#include "api/plan.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/tree.h"
#include "api/undo.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"
#include "sr/sr.h"
#include "vmm/vmm.h"

/* ---- what the VMM is told ---- */

static const char *node(struct task *t, const char *volume)
{
	return *volume ? volume_node(t, volume) : "";
}

static struct vmm_merge merge_of(struct task *t, const struct step *s)
{
	struct vmm_merge m = {
		.name = str(t, "merge-%s", s->upper),
		.disk = s->disk,
		.down = s->down,
		.haste = s->haste,
		.upper = node(t, s->upper),
		.lower = node(t, s->lower),
	};
	for (size_t i = 0; i < s->dropped.n; i++)
		list_add(t, &m.dropped, node(t, s->dropped.v[i]));
	return m;
}

/* ---- the records ---- */

static int move_layers(struct task *t, const char *from, const char *to)
{
	DB_EACH (t, VDI, layer, "parent_location", from) {
		layer->parent_location = to;
		if (db_put(t, &layer->row) < 0)
			return -1;
	}
	return 0;
}

/* Hidden rows of what was merged go, their volumes later. */
static int drop_volumes(struct task *t, const struct step *s)
{
	for (size_t i = 0; i < s->dropped.n; i++) {
		const char *volume = s->dropped.v[i];
		struct VDI_row *vdi = storage_owner(t, volume);
		if (vdi && db_delete(t, &vdi->row) < 0)
			return -1;
		if (storage_delete_later(t, s->sr, volume) < 0)
			return -1;
	}
	return 0;
}

static int record_up(struct task *t, const struct step *s)
{
	struct VDI_row *vdi = storage_owner(t, s->upper);
	const char *old = vdi ? vdi->parent_location : "";
	if (!vdi || streq(old, s->lower))
		return 0;
	vdi->parent_location = s->lower;
	if (db_put(t, &vdi->row) < 0)
		return -1;
	return storage_prune(t, s->sr, old);
}

/* The lower volume becomes whatever the upper one was. */
static int record_down(struct task *t, const struct step *s)
{
	struct VDI_row *vdi = storage_owner(t, s->upper), *below = storage_owner(t, s->lower);
	if (!vdi || !below)
		return 0;
	if (db_delete(t, &below->row) < 0)
		return -1;
	vdi->location = s->lower;
	vdi->parent_location = below->parent_location;
	if (db_put(t, &vdi->row) < 0 || move_layers(t, s->upper, s->lower) < 0)
		return -1;
	return drop_volumes(t, s);
}

static int record(struct task *t, const struct step *s)
{
	DB_SCOPE(t);
	if ((s->down ? record_down(t, s) : record_up(t, s)) < 0)
		return -1;
	return db_commit(t);
}

/* Has `record` been?  Of a volume that was deleted meanwhile nothing is left to be recorded. */
static bool is_recorded(struct task *t, const struct step *s)
{
	const struct VDI_row *vdi = storage_owner(t, s->upper);
	return !vdi || (!s->down && streq(vdi->parent_location, s->lower));
}

/* ---- while a guest uses them ---- */

static int sync_all(struct task *t, const struct sr *sr, const struct step *s)
{
	const char *const written[] = { s->down ? s->lower : s->upper, s->above };
	for (size_t i = 0; i < COUNT(written) && sr->layout->sync; i++)
		if (*written[i] && sr->layout->sync(t, sr, written[i]) < 0)
			return -1;
	return 0;
}

struct pivot {
	const struct sr *sr;
	const struct step *step;
};

/* The guest's writes wait meanwhile. */
static int pivot(struct task *t, void *arg)
{
	const struct pivot *p = arg;
	crash_point_standing();
	if (sync_all(t, p->sr, p->step) < 0 || record(t, p->step) < 0)
		return -1;
	crash_point_standing();
	return 0;
}

/* A merge takes the layers from the storage, which says how they lie on the disk, not what the VM has open. */
static int check_top(struct task *t, struct vmm *vmm, const struct step *s)
{
	const char *now;
	if (settings.vmm->top(t, vmm, s->disk, &now) < 0)
		return -1;
	if (streq(now, volume_node(t, s->top)))
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t, "The VM has \"%s\" open as %s, and not \"%s\": nothing is merged there.",
			now, s->disk, volume_node(t, s->top)));
}

static int merge_online(struct task *t, const struct sr *sr, const struct step *s)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_get(hold, s->vm);
	struct vmm_merge m = merge_of(t, s);
	json_t *layers;
	int result = -1;
	if (!vmm)
		return fail(t, VM_BAD_POWER_STATE, s->vm, "running", "halted");
	m.link = sr->layout->link(t, s->lower);
	m.arg = &(struct pivot){ sr, s };
	m.pivot = s->down && s->into_top ? pivot : NULL;
	if (check_top(t, vmm, s) == 0 && sr->layout->blockdev(t, sr, s->top, true, &layers) == 0) {
		m.layers = layers;
		result = settings.vmm->merge(t, vmm, &m);
	}
	crash_point();
	if (result == 0 && !m.pivot && (sync_all(t, sr, s) < 0 || record(t, s) < 0))
		result = -1;
	crash_point();
	if (result == 0)
		result = settings.vmm->merge_close(t, vmm, &m);
	talloc_free(hold);
	return result;
}

/* ---- offline ---- */

/* What stands on the volume, by its header too. */
static int relink_layers(struct task *t, const struct sr *sr, const char *from, const char *to)
{
	DB_EACH (t, VDI, layer, "parent_location", from)
		if (sr->layout->relink(t, sr, layer->location, to) < 0)
			return -1;
	return 0;
}

static int merge_offline(struct task *t, const struct sr *sr, const struct step *s)
{
	struct sr_merge m = { .down = s->down, .upper = s->upper, .lower = s->lower };
	if (sr->layout->merge(t, sr, &m) < 0)
		return -1;
	crash_point();
	if (s->down && relink_layers(t, sr, s->upper, s->lower) < 0)
		return -1;
	crash_point();
	return record(t, s);
}

static int merge(struct task *t, const struct sr *sr, const struct step *s)
{
	if (undo_merge_settle(t, s) < 0)
		return -1;
	crash_point();
	return *s->vm ? merge_online(t, sr, s) : merge_offline(t, sr, s);
}

/* ---- settling ---- */

/* No process has the volumes: their headers say again what the rows say. */
static int settle_headers(struct task *t, const struct sr *sr, const struct step *s)
{
	int result = s->down ? relink_layers(t, sr, s->upper, s->upper)
			     : sr->layout->relink(t, sr, s->upper, s->dropped.v[0]);
	if (result == 0 || t->code != VDI_MISSING)
		return result;
	task_forgive(t);
	return 0;
}

/* QEMU writes a header at the very end of a merge: one that failed just there must not stay. */
static int check_header(struct task *t, const struct sr *sr, const char *volume, const char *parent)
{
	struct volume v;
	if (sr->layout->stat(t, sr, volume, &v) < 0)
		return -1;
	return streq(v.parent, parent)
		       ? 0
		       : fail(t, SR_BACKEND_FAILURE_46, "",
			      str(t,
				  "The VDI is not available [opterr=%s: its header is put right "
				  "when its VM has ended]",
				  volume),
			      "");
}

static int settle_online(struct task *t, const struct sr *sr, const struct step *s, struct vmm *vmm)
{
	enum vmm_merge_state state;
	struct vmm_merge m = merge_of(t, s);
	if (settings.vmm->merge_state(t, vmm, &m, is_recorded(t, s), &state) < 0)
		return -1;
	if (state == VMM_MERGE_DONE && !is_recorded(t, s) &&
	    (sync_all(t, sr, s) < 0 || record(t, s) < 0))
		return -1;
	if (settings.vmm->merge_close(t, vmm, &m) < 0)
		return -1;
	if (is_recorded(t, s))
		return 0;
	return s->down ? (*s->above ? check_header(t, sr, s->above, s->upper) : 0)
		       : check_header(t, sr, s->upper, s->dropped.v[0]);
}

struct step step_read(struct task *t, const char *const *a)
{
	return (struct step){
		.kind = STEP_MERGE,
		.sr = a[0],
		.vm = a[1],
		.disk = a[2],
		.top = "",
		.down = streq(a[3], "down"),
		.upper = a[4],
		.lower = a[5],
		.above = a[6],
		.dropped = list_split(t, a[7], ','),
	};
}

int step_settle(struct task *t, const char *const *a)
{
	struct step s = step_read(t, a);
	const struct sr *sr = storage_sr(t, s.sr);
	if (!sr)
		return -1;
	void *hold = talloc_new(t);
	struct vmm *vmm = NULL;
	int result = *s.vm ? guest_find(t, hold, s.vm, &vmm) : 0;
	if (vmm)
		result = settle_online(t, sr, &s, vmm);
	talloc_free(hold);
	if (vmm && result < 0 && guest_ends(s.vm)) {
		task_forgive(t); /* what it had open is open no more */
		vmm = NULL;
		result = 0;
	}
	if (!vmm && result == 0 && !is_recorded(t, &s))
		result = settle_headers(t, sr, &s);
	/* Down may have made the lower one larger before it was given up. */
	const struct VDI_row *lower = s.down ? storage_owner(t, s.lower) : NULL;
	return result == 0 && lower ? storage_settle_size(t, lower->row.ref) : result;
}

bool step_holds_guest(const struct step *s)
{
	return s->down && !*s->above;
}

int step_let_go(struct task *t, const struct step *s, struct vmm *vmm)
{
	enum vmm_merge_state unused;
	struct vmm_merge m = merge_of(t, s);
	return settings.vmm->merge_state(t, vmm, &m, is_recorded(t, s), &unused);
}

/* ---- a top that is frozen, for no snapshot's sake ---- */

static int record_frozen(struct task *t, const struct plan *p)
{
	DB_SCOPE(t);
	const struct VDI_row *vdi = p->v[0].vdi;
	if (plan_check(t, p) < 0 || plan_record_overlays(t, p) < 0 ||
	    storage_hide(t, vdi, vdi->location, vdi->parent_location) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

static int freeze(struct task *t, const struct sr *sr, const struct step *s)
{
	const struct VDI_row *vdi = storage_owner(t, s->upper);
	const struct VM_row *vm = db_get(t, VM, s->vm);
	(void)sr;
	if (!vm)
		return -1;
	struct plan *p = vdi ? plan_unmarked(t, vm, vdi, s->disk) : NULL;
	if (!p || plan_overlays(t, p) < 0 || plan_prepare(t, p) < 0 || plan_switch(t, p) < 0)
		return -1;
	plan_tidy(t, p);
	if (record_frozen(t, p) < 0)
		return -1;
	plan_refresh(t, p);
	return 0;
}

/* ---- clones instead of layers ---- */

static const char *make_clone(struct task *t, const struct sr *sr, const char *sr_ref,
			      const char *volume)
{
	const char *id = volume_id_new(t);
	if (undo_vol_delete(t, sr_ref, id, "") < 0)
		return NULL;
	crash_point();
	if (sr->layout->clone(t, sr, volume, id) < 0)
		return NULL;
	crash_point();
	return id;
}

/* The snapshot, which is what others must not lose, gets the file that nothing else touches.  If it was deleted
 * meanwhile, the volume is a hidden layer, and nobody wants the file. */
static int split(struct task *t, const struct sr *sr, const struct step *s)
{
	const char *id = make_clone(t, sr, s->sr, s->upper);
	if (!id)
		return -1;
	DB_SCOPE(t);
	struct VDI_row *vdi = storage_owner(t, s->upper);
	if (!vdi || !vdi->managed)
		return fail(t, VDI_MISSING, s->sr, s->upper);
	vdi->location = id;
	map_set(vdi, &vdi->sm_config, "method", "reflink");
	if (db_put(t, &vdi->row) < 0 || storage_hide(t, vdi, s->upper, vdi->parent_location) < 0 ||
	    journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* The layer's header first: both volumes show the same, so it may name either while the row is written. */
static int detach(struct task *t, const struct sr *sr, const struct step *s)
{
	const struct VDI_row *layer = storage_owner(t, s->upper);
	const char *below = layer ? layer->parent_location : "";
	const char *id = *below ? make_clone(t, sr, s->sr, below) : NULL;
	if (!id || undo_link_settle(t, s->sr, s->upper) < 0)
		return -1;
	crash_point();
	if (sr->layout->relink(t, sr, s->upper, id) < 0)
		return -1;
	crash_point();
	DB_SCOPE(t);
	struct VDI_row *vdi = storage_owner(t, s->upper), *base = storage_owner(t, below);
	if (!vdi || !base)
		return fail(t, VDI_MISSING, s->sr, s->upper);
	vdi->parent_location = id;
	if (storage_hide(t, base, id, base->parent_location) < 0 || db_put(t, &vdi->row) < 0 ||
	    storage_prune(t, s->sr, below) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* ---- the call ---- */

static const struct kind_row {
	const char *name; /* for the log */
	int (*run)(struct task *, const struct sr *, const struct step *);
} kind_rows[] = {
	[STEP_MERGE] = { "merged", merge },
	[STEP_FREEZE] = { "frozen", freeze },
	[STEP_SPLIT] = { "split", split },
	[STEP_DETACH] = { "detached", detach },
};

static void refresh(struct task *t, const struct step *s)
{
	const char *const volumes[] = { s->upper, s->lower };
	for (size_t i = 0; i < COUNT(volumes); i++) {
		const struct VDI_row *vdi = *volumes[i] ? storage_owner(t, volumes[i]) : NULL;
		if (vdi)
			storage_refresh(t, s->sr, (const char *[]){ vdi->row.ref, NULL });
	}
}

struct work {
	const struct step *step;
	const char *ref; /* of the task's row */
};

static int run(struct task *t, void *args)
{
	struct work *w = args;
	const struct step *s = w->step;
	const struct sr *sr = storage_sr(t, s->sr);
	int64_t begin = clock_ms();
	w->ref = t->ref;
	if (!sr || kind_rows[s->kind].run(t, sr, s) < 0 || journal_drop(t) < 0)
		return -1;
	refresh(t, s);
	log_line(t, "layers %s%s volume=%s lower=%s vm=%s bytes=%llu duration_ms=%lld",
		 kind_rows[s->kind].name, s->down ? " down" : "", s->upper, s->lower,
		 *s->vm ? s->vm : "-", (unsigned long long)s->cost,
		 (long long)(clock_ms() - begin));
	return 0;
}

static const struct call call_merge = { .name = "VDI.merge", .result = VOID, .run = run };

/* Nobody has asked for it, so nobody would clear its row away. */
static int forget_task(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct task_row *row = db_seek(t, task, ref);
	if (!row || db_delete(t, &row->row) < 0)
		return 0;
	return db_commit(t);
}

int step_run(struct task *t, const struct step *s)
{
	struct work w = { s, "" };
	if (api_call(t, &call_merge, &w) < 0)
		return -1;
	return forget_task(t, w.ref);
}
