// SPDX-License-Identifier: Apache-2.0
#include "api/plan.h"

#include "api/coalesce.h"
#include "api/guests.h"
#include "api/need.h"
#include "api/operation.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/tree.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* ---- which disks ---- */

/* Another VM's process that writes the disk would write below what is made here. */
static int check_elsewhere(struct task *t, const struct VDI_row *vdi, const char *vm,
			   enum vdi_operations op)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref)
		if (vbd->currently_attached && vbd->mode == vbd_mode_RW && !streq(vbd->VM, vm) &&
		    !vdi->is_a_snapshot)
			return fail(t, VDI_IN_USE, vdi->row.ref,
				    enum_text("vdi_operations", (int)op));
	return 0;
}

static int check_disk(struct task *t, const struct VDI_row *vdi, const char *vm,
		      enum vdi_operations op)
{
	if (vdi->sharable && op != vdi_operations_copy)
		return fail(t, VDI_IS_SHARABLE, vdi->row.ref);
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	if (vdi->raw && op != vdi_operations_copy)
		return sr_refuse_layer(t);
	return storage_writable_sr(t, vdi->SR) ? check_elsewhere(t, vdi, vm, op) : -1;
}

/* What is to be marked: the disks of a VM's drives, or one. */
struct choice {
	struct plan *plan;
	enum vdi_operations op;
	const char *vdi;           /* one; NULL: those of: */
	const struct VM_row *vm;   /* as it was when its operation began; */
	const struct list *ignore; /* but for these */
};

/* id: of the disk in the VMM; attached: the guest may be writing it.  Whether it may is fixed as long as the drive is
 * attached: neither the drive's mode nor the disk's fields can be changed then. */
static int add_disk(struct task *t, const struct choice *c, const char *ref, const char *id,
		    bool attached)
{
	struct plan *p = c->plan;
	const struct VDI_row *vdi = db_get(t, VDI, ref);
	if (!vdi || check_disk(t, vdi, p->vm, c->op) < 0)
		return -1;
	p->v = talloc_realloc(p, p->v, struct plan_disk, p->n + 1);
	p->v[p->n++] = (struct plan_disk){
		.ref = talloc_strdup(p, ref),
		.id = talloc_strdup(p, id),
		.written = attached,
	};
	return 0;
}

static int add_drive(struct task *t, const struct choice *c, const struct VBD_row *vbd)
{
	const struct VDI_row *vdi = db_get(t, VDI, vbd->VDI);
	if (!vdi || need_check(t, vdi, NEED_ATTACH, enum_text("vdi_operations", (int)c->op)) < 0)
		return -1;
	return add_disk(t, c, vbd->VDI, vbd_device_id(t, vbd->userdevice),
			vbd->currently_attached && vbd->mode == vbd_mode_RW);
}

/* The store of UEFI variables is one more disk. */
static int add_all(struct task *t, const struct choice *c)
{
	const struct VM_row *vm = c->vm;
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref) {
		if (vbd->type != vbd_type_Disk || vbd->empty || list_has(c->ignore, vbd->VDI) ||
		    plan_find(c->plan, vbd->VDI))
			continue;
		if (add_drive(t, c, vbd) < 0)
			return -1;
	}
	if (!db_seek(t, VDI, vm->NVRAM_VDI))
		return 0;
	return add_disk(t, c, vm->NVRAM_VDI, VMM_NVRAM, vm->NVRAM_open);
}

/* The drive of the VM that writes the disk, NULL: none. */
static const struct VBD_row *drive_of(struct task *t, const char *vdi, const char *vm)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi)
		if (vbd->currently_attached && vbd->mode == vbd_mode_RW && streq(vbd->VM, vm))
			return vbd;
	return NULL;
}

static int add_one(struct task *t, const struct choice *c)
{
	const struct VDI_row *vdi = db_get(t, VDI, c->vdi);
	if (!vdi || operation_check_vdi(t, vdi, c->op) < 0)
		return -1;
	const struct VBD_row *vbd = drive_of(t, c->vdi, c->plan->vm);
	return add_disk(t, c, c->vdi, vbd ? vbd_device_id(t, vbd->userdevice) : "", vbd != NULL);
}

static int mark_all(struct task *t, const struct choice *c)
{
	for (size_t i = 0; i < c->plan->n; i++) {
		struct VDI_row *vdi = db_get(t, VDI, c->plan->v[i].ref);
		int marked = vdi ? operation_mark_vdi(t, vdi, c->op) : -1;
		if (marked <= 0)
			return marked;
	}
	return 1;
}

/* All or none.  What could never be done is refused before anybody is waited for. */
static int try_to_mark(struct task *t, void *arg)
{
	struct choice *c = arg;
	DB_SCOPE(t);
	c->plan->n = 0;
	if ((c->vdi ? add_one : add_all)(t, c) < 0)
		return operation_tried(t);
	int marked = mark_all(t, c);
	return marked <= 0 ? marked : db_commit(t) < 0 ? -1 : 1;
}

/* vm NULL: no VM has the disks.  What it holds others up with goes at the end of the call at the latest. */
static struct plan *plan_new(struct task *t, const struct VM_row *vm)
{
	struct plan *p = talloc_zero(t->scope, struct plan);
	p->hold = talloc_new(p);
	p->vm = vm ? vm->row.ref : "";
	return p;
}

static int hold_process(struct task *t, struct plan *p, const struct VM_row *vm)
{
	if (vm_has_process(vm) && !(p->vmm = guest_need(t, p->hold, vm)))
		return -1;
	return 0;
}

/* As they are now that nobody else switches or merges them. */
static int read_disks(struct task *t, struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		struct plan_disk *d = &p->v[i];
		d->vdi = db_get(t, VDI, d->ref);
		d->sr = d->vdi ? storage_writable_sr(t, d->vdi->SR) : NULL;
		if (!d->sr)
			return -1;
		d->written = d->written && p->vmm && !d->vdi->is_a_snapshot;
	}
	return 0;
}

/* ---- what the VMM has open ---- */

/* The rows may be wrong about a guest that is running, and a layer over another volume than the one that it writes
 * would lose what it writes.  Disks that it only reads may have got layers since it was started, which hold nothing. */
static int ask(struct task *t, struct vmm *vmm, const struct VDI_row *vdi, const char *id)
{
	const char *node;
	if (settings.vmm->top(t, vmm, id, &node) < 0)
		return -1;
	if (streq(node, volume_node(t, vdi->location)))
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t,
			"The VM has \"%s\" open as %s, and the record of its disk %s names \"%s\". "
			"Nothing was done. Shut the VM down and start it again, and look at the "
			"storage with sr-check.",
			node, id, vdi->uuid, volume_node(t, vdi->location)));
}

static int ask_all(struct task *t, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].written && ask(t, p->vmm, p->v[i].vdi, p->v[i].id) < 0)
			return -1;
	return 0;
}

/* The process is held when nobody is waited for any more. */
static int take(struct task *t, const struct VM_row *vm, struct choice *c)
{
	struct plan *p = c->plan;
	if (quiesce_make_way(t, p->vm) < 0 || operation_wait(t, try_to_mark, c) < 0)
		return -1;
	int held = c->vdi ? coalesce_hold(t, p->hold, c->vdi, false)
			  : coalesce_hold_vm(t, p->hold, p->vm, c->op == vdi_operations_copy);
	if (held < 0 || hold_process(t, p, vm) < 0 || read_disks(t, p) < 0)
		return -1;
	return ask_all(t, p);
}

struct plan *plan_disks(struct task *t, const struct VM_row *vm, const struct list *ignore,
			enum vdi_operations op)
{
	struct choice c = { .plan = plan_new(t, vm), .op = op, .vm = vm, .ignore = ignore };
	return take(t, vm, &c) < 0 ? NULL : c.plan;
}

struct plan *plan_one(struct task *t, const struct VM_row *vm, const char *ref,
		      enum vdi_operations op)
{
	struct choice c = { .plan = plan_new(t, vm), .op = op, .vdi = ref };
	return take(t, vm, &c) < 0 ? NULL : c.plan;
}

struct plan *plan_unmarked(struct task *t, const struct VM_row *vm, const struct VDI_row *vdi,
			   const char *drive)
{
	struct plan *p = plan_new(t, vm);
	const struct sr *sr = storage_writable_sr(t, vdi->SR);
	if (!sr || hold_process(t, p, vm) < 0)
		return NULL;
	p->v = talloc(p, struct plan_disk);
	p->v[p->n++] = (struct plan_disk){
		.ref = vdi->row.ref, .vdi = vdi, .sr = sr, .id = drive, .written = p->vmm
	};
	return ask_all(t, p) < 0 ? NULL : p;
}

/* The VM's disk that the drive is for, if the guest writes it. */
static const struct VDI_row *written_by(struct task *t, const struct VBD_row *vbd)
{
	bool writes =
		vbd->type == vbd_type_Disk && vbd->currently_attached && vbd->mode == vbd_mode_RW;
	const struct VDI_row *vdi = writes ? db_seek(t, VDI, vbd->VDI) : NULL;
	return vdi && !vdi->is_a_snapshot ? vdi : NULL;
}

static int ask_vm(struct task *t, struct vmm *vmm, const struct VM_row *vm)
{
	const struct VDI_row *vdi;
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref)
		if ((vdi = written_by(t, vbd)) &&
		    ask(t, vmm, vdi, vbd_device_id(t, vbd->userdevice)) < 0)
			return -1;
	vdi = vm->NVRAM_open ? db_seek(t, VDI, vm->NVRAM_VDI) : NULL;
	return vdi ? ask(t, vmm, vdi, VMM_NVRAM) : 0;
}

int plan_ask(struct task *t, const struct VM_row *vm)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = vm_has_process(vm) ? guest_need(t, hold, vm) : NULL;
	int result = vmm ? ask_vm(t, vmm, vm) : vm_has_process(vm) ? -1 : 0;
	talloc_free(hold);
	return result;
}

int plan_check(struct task *t, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct VDI_row *then = p->v[i].vdi, *now = db_get(t, VDI, then->row.ref);
		if (!now)
			return -1;
		if (!streq(now->location, then->location))
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", now->row.ref, "revert",
				    NULL_REF);
	}
	return 0;
}

const struct plan_disk *plan_find(const struct plan *p, const char *vdi)
{
	for (size_t i = 0; i < p->n; i++)
		if (streq(p->v[i].ref, vdi))
			return &p->v[i];
	return NULL;
}

/* ---- volumes ---- */

static const char *make_layer(struct task *t, const struct plan *p, const struct plan_disk *d)
{
	const char *id = volume_id_new(t);
	if (undo_vol_delete(t, d->vdi->SR, id, d->written ? p->vm : "") < 0 ||
	    d->sr->layout->create(t, d->sr, id, d->vdi->location, (uint64_t)d->vdi->virtual_size) <
		    0)
		return NULL;
	return id;
}

/* A snapshot's disk is frozen already: the VM needs no overlay to go on with. */
static bool needs_overlay(const struct plan_disk *d)
{
	return !d->vdi->is_a_snapshot && !d->left;
}

/* What has to be copied later is known, and refused, before anything is made. */
static int check_price(struct task *t, struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		uint64_t bytes = 0;
		if (needs_overlay(&p->v[i]) && tree_price(t, p->v[i].vdi, &bytes) < 0)
			return -1;
		p->copy_bytes += bytes;
	}
	return 0;
}

int plan_overlays(struct task *t, struct plan *p)
{
	if (check_price(t, p) < 0)
		return -1;
	for (size_t i = 0; i < p->n; i++) {
		struct plan_disk *d = &p->v[i];
		if (needs_overlay(d) && !(d->overlay = make_layer(t, p, d)))
			return -1;
		task_progress(t, (double)(i + 1) / (double)p->n);
	}
	return 0;
}

int plan_copies(struct task *t, struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		if (!(p->v[i].copy = make_layer(t, p, &p->v[i])))
			return -1;
		task_progress(t, (double)(i + 1) / (double)p->n);
	}
	return 0;
}

int plan_volumes(struct task *t, struct plan *p)
{
	struct plan frozen = { .vm = p->vm };
	for (size_t i = 0; i < p->n; i++) {
		if (!p->v[i].vdi->is_a_snapshot)
			continue;
		frozen.v = &p->v[i];
		frozen.n = 1;
		if (plan_copies(t, &frozen) < 0)
			return -1;
	}
	return plan_overlays(t, p);
}

/* ---- the switch ---- */

int plan_sync(struct task *t, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_disk *d = &p->v[i];
		if (d->written && d->sr->layout->sync &&
		    d->sr->layout->sync(t, d->sr, d->vdi->location) < 0)
			return -1;
	}
	return 0;
}

/* What the guest writes during one round is left for the next, which has less to do: the pause begins
 * when a round was short. */
static int sync_rounds(struct task *t, const struct plan *p)
{
	enum { ROUNDS = 4, SHORT_MS = 20 };
	for (int round = 0; round < ROUNDS; round++) {
		int64_t begin = clock_ms();
		if (plan_sync(t, p) < 0)
			return -1;
		if (clock_ms() - begin < SHORT_MS)
			break;
	}
	return 0;
}

static int list_switches(struct task *t, struct plan *p)
{
	p->switches = talloc_zero_array(p, struct vmm_switch, p->n + 1);
	p->nswitches = 0;
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_disk *d = &p->v[i];
		json_t *layers;
		if (!d->written)
			continue;
		if (d->sr->layout->blockdev(t, d->sr, d->overlay, true, &layers) < 0)
			return -1;
		p->switches[p->nswitches++] = (struct vmm_switch){
			.disk = d->id,
			.below = volume_node(t, d->vdi->location),
			.overlay = json_array_get(layers, json_array_size(layers) - 1),
		};
	}
	return 0;
}

static int journal_switch(struct task *t, const struct plan *p)
{
	DB_SCOPE(t);
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_disk *d = &p->v[i];
		if (d->written && undo_overlay_keep(t, p->vm, d->vdi->row.ref, d->id,
						    d->vdi->location, d->overlay) < 0)
			return -1;
	}
	return db_commit(t);
}

int plan_prepare(struct task *t, struct plan *p)
{
	if (!p->vmm)
		return 0;
	if (list_switches(t, p) < 0)
		return -1;
	if (p->nswitches == 0)
		return 0;
	return settings.vmm->prepare(t, p->vmm, p->nswitches, p->switches) < 0 ||
			       journal_switch(t, p) < 0 || sync_rounds(t, p) < 0
		       ? -1
		       : 0;
}

int plan_save(struct task *t, struct plan *p, struct vmm_save *v)
{
	v->n = p->nswitches;
	v->switches = p->switches;
	crash_point();
	int saved = settings.vmm->save(t, p->vmm, v);
	p->pause_ms = v->pause_ms;
	crash_point();
	return saved;
}

int plan_switch(struct task *t, struct plan *p)
{
	if (p->nswitches == 0)
		return 0;
	/* From here it is quicker to end than to go back. */
	t->cancellable = false;
	crash_point();
	int switched =
		settings.vmm->switch_disks(t, p->vmm, p->nswitches, p->switches, &p->pause_ms);
	crash_point();
	return switched;
}

void plan_tidy(struct task *t, const struct plan *p)
{
	if (p->nswitches)
		settings.vmm->tidy(t, p->vmm, p->nswitches, p->switches);
}

/* ---- the records ---- */

int plan_record_overlays(struct task *t, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct plan_disk *d = &p->v[i];
		if (!d->overlay)
			continue;
		struct VDI_row *vdi = db_get(t, VDI, d->vdi->row.ref);
		if (!vdi)
			return -1;
		vdi->location = d->overlay;
		vdi->parent_location = d->vdi->location;
		vdi->physical_utilisation = 0;
		if (db_put(t, &vdi->row) < 0)
			return -1;
	}
	return 0;
}

void plan_refresh(struct task *t, const struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct VDI_row *vdi = p->v[i].vdi;
		storage_refresh(t, vdi->SR,
				(const char *[]){ vdi->row.ref, p->v[i].new_vdi, NULL });
		coalesce_kick(vdi->SR, vdi->location);
	}
}
