// SPDX-License-Identifier: Apache-2.0
/* vm_revert.c -- a VM goes back to a snapshot: disks and configuration.
 *
 * Each disk keeps its uuid and gets a new volume, a layer over the snapshot's; the old volume is
 * deleted afterwards, or hidden while others are layers over it.  Disks that were attached since are
 * detached, never deleted.  All records change in one transaction:
 *
 *     before   S (snapshot's) <- T (the VM's)      after   S <- N (the VM's)      T deleted
 *
 * The volumes are made while the VM still runs: when there is no space, nothing has happened. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/message.h"
#include "api/metadata.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/settings.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vm_copy.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* What a revert leaves as it is. */
static const char *const kept[] = {
	"uuid",
	"suspend_VDI",
	"NVRAM_VDI",
	"power_state",
	"parent",
	"current_operations",
	"metrics",
	"guest_metrics",
	"resident_on",
	"domid",
	"protection_policy",
	"snapshot_schedule",
	"scheduled_to_be_resident_on",
	"tags",
	"affinity",
	"groups",
	"VUSBs",
	"VGPUs",
	"attached_PCIs",
	"is_a_snapshot",
	"snapshot_of",
	"snapshot_time",
	"snapshot_info",
	"snapshot_metadata",
	"is_default_template",
	NULL,
};

/* ---- disks ---- */

/* The disk that the snapshot's disk was taken of; NULL when it was destroyed since. */
static struct VDI_row *target_of(struct task *t, const struct VDI_row *snap)
{
	return db_seek(t, VDI, snap->snapshot_of);
}

/* Nobody but the VM itself may have its disks open; they are marked as busy. */
static int take_targets(struct task *t, const struct plan *p, const char *vm)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct VDI_row *vdi = target_of(t, p->v[i].vdi);
		if (!vdi)
			continue;
		if (!operation_begin_vdi(t, vdi->row.ref, vdi_operations_revert_to))
			return -1;
		DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref)
			if (vbd->currently_attached && !streq(vbd->VM, vm))
				return fail(t, VDI_IN_USE, vdi->row.ref, "revert");
	}
	return 0;
}

static int revert_disk(struct task *t, struct VDI_row *vdi, const struct plan_disk *d)
{
	const char *old = vdi->location, *parent = vdi->parent_location;
	struct VDI_row *before = (struct VDI_row *)model_copy(t, &vdi->row);
	vdi->location = d->copy;
	vdi->parent_location = d->vdi->location;
	vdi->virtual_size = d->vdi->virtual_size;
	vdi->physical_utilisation = 0;
	if (db_put(t, &vdi->row) < 0)
		return -1;
	return storage_release(t, before, old, parent);
}

/* The disk was destroyed: a new one takes its place, also as what its snapshots are of. */
static int revive_disk(struct task *t, struct plan_disk *d)
{
	struct VDI_row *vdi = (struct VDI_row *)model_copy(t, &d->vdi->row);
	vdi->is_a_snapshot = false;
	vdi->snapshot_of = NULL_REF;
	vdi->snapshot_time = TIME_NEVER;
	map_remove(&vdi->sm_config, "method");
	vdi->current_operations = (struct map){ 0 };
	vdi->location = d->copy;
	vdi->parent_location = d->vdi->location;
	d->new_vdi = vdi->row.ref;
	if (db_insert(t, &vdi->row) < 0)
		return -1;
	DB_EACH (t, VDI, sibling, "snapshot_of", d->vdi->snapshot_of) {
		sibling->snapshot_of = vdi->row.ref;
		if (db_put(t, &sibling->row) < 0)
			return -1;
	}
	return 0;
}

static int revert_disks(struct task *t, struct plan *p, struct map *ret_vdis)
{
	for (size_t i = 0; i < p->n; i++) {
		struct plan_disk *d = &p->v[i];
		struct VDI_row *vdi = target_of(t, d->vdi);
		int done = vdi ? revert_disk(t, vdi, d) : revive_disk(t, d);
		if (done < 0)
			return -1;
		if (vdi)
			d->new_vdi = vdi->row.ref;
		map_set(t, ret_vdis, d->vdi->row.ref, d->new_vdi);
	}
	return 0;
}

/* ---- the VM ---- */

static int replace_metrics(struct task *t, struct VM_row *vm, const struct VM_row *snap)
{
	struct VM_metrics_row *old = db_seek(t, VM_metrics, vm->metrics);
	struct VM_metrics_row *from = db_seek(t, VM_metrics, snap->metrics);
	struct row *copy = from ? model_copy(t, &from->row) : &row_new(t, VM_metrics)->row;
	if ((old && db_delete(t, &old->row) < 0) || db_insert(t, copy) < 0)
		return -1;
	vm->metrics = copy->ref;
	return 0;
}

/* memory: that of a checkpoint, to be stored; NULL: of a snapshot without. */
static int record(struct task *t, const char *vm_ref, const char *snap_ref, struct plan *p,
		  struct VDI_row *memory)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, vm_ref), *snap = db_get(t, VM, snap_ref);
	if (!vm || !snap)
		return -1;
	struct vm_copy c = { .from = snap, .snapshot = true, .memory = memory };
	if (plan_check(t, p) < 0 || revert_disks(t, p, &c.vdis) < 0 ||
	    devices_delete(t, &class_VBD, "VM", vm_ref) < 0 ||
	    devices_delete(t, &class_VIF, "VM", vm_ref) < 0 || vm_copy_devices(t, &c, vm) < 0 ||
	    metadata_read(t, snap->snapshot_metadata, &vm->row, kept) < 0 ||
	    replace_metrics(t, vm, snap) < 0 || guest_metrics_copy(t, vm, snap) < 0)
		return -1;
	const char *store = map_get(&c.vdis, snap->NVRAM_VDI);
	if (store)
		vm->NVRAM_VDI = store;
	else
		vm->NVRAM_stale = true; /* one that was made since the snapshot stays */
	vm->generation_id = vm_generation_id(t);
	vm->parent = snap->row.ref;
	vm->ha_always_run = false;
	vm->power_state = memory ? vm_power_state_Suspended : vm_power_state_Halted;
	if (memory) {
		vm->suspend_VDI = memory->row.ref;
		if (db_insert(t, &memory->row) < 0)
			return -1;
	}
	const char *body = str(t, "VM '%s' (uuid: %s) reverted to snapshot: %s (uuid %s)",
			       vm->name_label, vm->uuid, snap->name_label, snap->uuid);
	if (db_put(t, &vm->row) < 0 || db_put(t, &snap->row) < 0 ||
	    message_tell(t, "VM_SNAPSHOT_REVERTED", 5, cls_VM, vm->uuid, body) < 0 ||
	    operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

/* The VM was destroyed: it is made again with its old uuid, and all its snapshots are its own again. */
static const char *revive_vm(struct task *t, const struct VM_row *snap)
{
	DB_SCOPE(t);
	struct VM_row *vm = row_new(t, VM);
	struct VM_metrics_row *metrics = row_new(t, VM_metrics);
	static const char *const none[] = { "current_operations",
					    "metrics",
					    "guest_metrics",
					    "parent",
					    "resident_on",
					    "domid",
					    "power_state",
					    "NVRAM_VDI",
					    NULL };
	if (metadata_read(t, snap->snapshot_metadata, &vm->row, none) < 0)
		return NULL;
	vm->metrics = metrics->row.ref;
	vm->domid = -1;
	if (*db_find(t, &class_VM, "uuid", vm->uuid))
		return fail_ptr(t, DB_UNIQUENESS_CONSTRAINT_VIOLATION, "VM", "uuid", vm->uuid);
	if (undo_record_delete(t, "VM_metrics", metrics->row.ref) < 0 ||
	    undo_record_delete(t, "VM", vm->row.ref) < 0 || db_insert(t, &metrics->row) < 0 ||
	    db_insert(t, &vm->row) < 0)
		return NULL;
	DB_EACH (t, VM, sibling, "snapshot_of", snap->snapshot_of) {
		sibling->snapshot_of = vm->row.ref;
		if (db_put(t, &sibling->row) < 0)
			return NULL;
	}
	return db_commit(t) < 0 ? NULL : vm->row.ref;
}

/* ---- memory ---- */

/* Before anything is stopped: is all of it what was written, and can this host load it? */
static int verify_memory(struct task *t, const struct VM_row *snap)
{
	struct saved s;
	if (saved_open(t, snap, &s) < 0)
		return -1;
	int result = image_verify(t, s.image);
	fd_close(&s.fd);
	return result;
}

/* ret NULL: the snapshot has none. */
static int take_memory(struct task *t, const struct VM_row *snap, struct VDI_row **ret)
{
	*ret = NULL;
	if (snap->power_state != vm_power_state_Suspended)
		return 0;
	if (vm_check_resume(t, snap) < 0 || verify_memory(t, snap) < 0)
		return -1;
	*ret = suspend_image_share(t, snap->suspend_VDI, false);
	return *ret ? 0 : -1;
}

/* ---- the call ---- */

static int keep_current(struct task *t, const char *vm, const struct VM_row *snap)
{
	struct VM_snapshot a = {
		.vm = vm,
		.new_name = str(t, "before revert to %s", snap->name_label),
	};
	return VM_snapshot(t, &a);
}

int VM_revert(struct task *t, struct VM_revert *a)
{
	int64_t begin = clock_ms();
	struct list none = { 0 };
	struct VM_row *snap = db_get(t, VM, a->snapshot);
	if (!snap || operation_check(t, snap, vm_operations_revert) < 0)
		return -1;
	bool exists = db_seek(t, VM, snap->snapshot_of) != NULL;
	if (exists && a->keep_current && keep_current(t, snap->snapshot_of, snap) < 0)
		return -1;
	const char *vm = exists ? snap->snapshot_of : revive_vm(t, snap);
	if (!vm)
		return -1;
	t->cancellable = true;
	if (!operation_begin(t, a->snapshot, vm_operations_revert) ||
	    !operation_begin(t, vm, vm_operations_reverting) ||
	    coalesce_hold_vm(t, t, vm, true) < 0)
		return -1;

	struct plan *p = plan_disks(t, snap, &none, vdi_operations_revert_from);
	if (!p || take_targets(t, p, vm) < 0 || plan_copies(t, p) < 0)
		return -1;
	struct VDI_row *memory = NULL;
	if (take_memory(t, snap, &memory) < 0)
		return -1;
	t->cancellable = false;
	if (vm_force_halt(t, vm) < 0 || record(t, vm, a->snapshot, p, memory) < 0)
		return -1;
	plan_refresh(t, p);
	log_line(t, "vm reverted vm=%s snapshot=%s duration_ms=%lld", vm, snap->uuid,
		 (long long)(clock_ms() - begin));
	return 0;
}
