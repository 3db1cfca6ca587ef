// SPDX-License-Identifier: Apache-2.0
/* revert_disks.c -- which disks a revert puts back, and what becomes of them and of the drives.
 *
 *     disk of the snapshot      its original is              then
 *
 *     S  <- N                   the VM's own                 gets the new volume N, keeps its uuid
 *                               somebody else's too, or      stays; a new disk with N takes its place
 *                               nobody's
 *                               gone                         a new disk with N takes its place */
#include "api/revert.h"

#include "api/device.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/vm_snapshot.h"
#include "base/task.h"
#include "db/db.h"

/* ---- which disks ---- */

/* A snapshot's drive has a snapshot's disk, so it is no user of this one.  The store of its variables is the VM's own
 * whatever drives name it, which nobody can attach. */
static bool is_own(struct task *t, const struct VM_row *vm, const struct VDI_row *vdi)
{
	bool own = false;
	if (streq(vm->NVRAM_VDI, vdi->row.ref))
		return true;
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref) {
		if (!streq(vbd->VM, vm->row.ref))
			return false;
		own = true;
	}
	return own;
}

struct VDI_row *revert_target(struct task *t, const char *vm_ref, const struct VDI_row *snap)
{
	const struct VM_row *vm = db_seek(t, VM, vm_ref);
	struct VDI_row *vdi = db_seek(t, VDI, snap->snapshot_of);
	return vm && vdi && is_own(t, vm, vdi) ? vdi : NULL;
}

static bool is_kept(const struct revert *r, const char *vdi)
{
	return r->kept && plan_find(r->kept->plan, vdi);
}

/* 1: marked, or there is nothing to be marked. */
static int take(struct task *t, const struct revert *r, struct plan_disk *d)
{
	struct VDI_row *vdi = revert_target(t, r->vm, d->vdi);
	d->new_vdi = vdi ? talloc_strdup(r->disks, vdi->row.ref) : NULL;
	if (!vdi || is_kept(r, vdi->row.ref))
		return 1;
	return operation_mark_vdi(t, vdi, vdi_operations_revert_to);
}

static int try_to_take(struct task *t, void *arg)
{
	const struct revert *r = arg;
	DB_SCOPE(t);
	for (size_t i = 0; i < r->disks->n; i++) {
		int taken = take(t, r, &r->disks->v[i]);
		if (taken <= 0)
			return taken;
	}
	return db_commit(t) < 0 ? -1 : 1;
}

int revert_take(struct task *t, struct revert *r)
{
	return operation_wait(t, try_to_take, r);
}

/* ---- disks, in the transaction ---- */

static int revert_disk(struct task *t, const struct revert *r, struct VDI_row *vdi,
		       const struct plan_disk *d)
{
	const char *old = vdi->location, *parent = vdi->parent_location;
	struct VDI_row *before = (struct VDI_row *)model_copy(t, &vdi->row);
	vdi->location = d->copy;
	vdi->parent_location = d->vdi->location;
	vdi->virtual_size = d->vdi->virtual_size;
	vdi->read_only = d->vdi->read_only;
	vdi->sharable = d->vdi->sharable;
	vdi->physical_utilisation = 0;
	if (db_put(t, &vdi->row) < 0)
		return -1;
	return is_kept(r, vdi->row.ref) ? 0 : storage_release(t, before, old, parent);
}

static bool is_snapshot_of(const struct VM_row *snap, const char *vm)
{
	return snap && snap->is_a_snapshot && streq(snap->snapshot_of, vm);
}

/* Does a snapshot of the VM have this disk of a snapshot? */
static bool is_in_snapshot_of(struct task *t, const struct VDI_row *snap, const char *vm)
{
	DB_EACH (t, VBD, vbd, "VDI", snap->row.ref)
		if (is_snapshot_of(db_seek(t, VM, vbd->VM), vm))
			return true;
	DB_EACH (t, VM, owner, "NVRAM_VDI", snap->row.ref)
		if (is_snapshot_of(owner, vm))
			return true;
	return false;
}

/* The VM's snapshots are of the new disk from now on, those of a disk that is gone all. */
static int adopt_siblings(struct task *t, const struct revert *r, const struct plan_disk *d)
{
	bool gone = !db_seek(t, VDI, d->vdi->snapshot_of);
	DB_EACH (t, VDI, sibling, "snapshot_of", d->vdi->snapshot_of) {
		if (!gone && !is_in_snapshot_of(t, sibling, r->vm))
			continue;
		sibling->snapshot_of = d->new_vdi;
		if (db_put(t, &sibling->row) < 0)
			return -1;
	}
	return 0;
}

static int replace_disk(struct task *t, struct revert *r, struct plan_disk *d)
{
	struct VDI_row *vdi = (struct VDI_row *)model_copy(t, &d->vdi->row);
	if (db_seek(t, VDI, d->vdi->snapshot_of))
		list_put(t, &r->replaced, d->vdi->snapshot_of);
	vdi->is_a_snapshot = false;
	vdi->snapshot_of = NULL_REF;
	vdi->snapshot_time = TIME_NEVER;
	map_remove(&vdi->sm_config, "method");
	vdi->current_operations = (struct map){ 0 };
	vdi->location = d->copy;
	vdi->parent_location = d->vdi->location;
	d->new_vdi = vdi->row.ref;
	return db_insert(t, &vdi->row) < 0 ? -1 : adopt_siblings(t, r, d);
}

/* Whose the disk is, is what it was when the disks were chosen. */
int revert_disks(struct task *t, struct revert *r)
{
	for (size_t i = 0; i < r->disks->n; i++) {
		struct plan_disk *d = &r->disks->v[i];
		struct VDI_row *vdi = revert_target(t, r->vm, d->vdi);
		if (d->new_vdi ? !vdi || !streq(vdi->row.ref, d->new_vdi) : vdi != NULL)
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", d->vdi->snapshot_of,
				    "attach", NULL_REF);
		if ((vdi ? revert_disk(t, r, vdi, d) : replace_disk(t, r, d)) < 0)
			return -1;
		map_set(t, &r->devices.vdis, d->vdi->row.ref, d->new_vdi);
	}
	return 0;
}

/* ---- drives ---- */

static const struct VBD_row *drive_of(struct task *t, const char *vm, const char *vdi)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi)
		if (streq(vbd->VM, vm))
			return vbd;
	return NULL;
}

/* A disk that stays goes with the VM, or not, as it would now; one that comes back, as it would have then; and a new
 * one is the VM's alone. */
static void note_owners(struct task *t, struct revert *r)
{
	for (size_t i = 0; i < r->disks->n; i++) {
		const struct plan_disk *d = &r->disks->v[i];
		const struct VBD_row *now = drive_of(t, r->vm, d->new_vdi);
		const struct VBD_row *then = drive_of(t, r->snapshot, d->vdi->row.ref);
		bool came_back = !db_seek(t, VDI, d->vdi->snapshot_of);
		bool disowned = now ? !map_get(&now->other_config, "owner")
				    : came_back && then && then->disowned;
		if (disowned)
			list_add(t, &r->devices.disowned, d->new_vdi);
	}
}

static void note_detached(struct task *t, struct revert *r)
{
	DB_EACH (t, VBD, vbd, "VM", r->vm) {
		bool comes_back = false;
		for (size_t i = 0; i < r->disks->n; i++)
			comes_back |= streq(r->disks->v[i].new_vdi, vbd->VDI);
		if (vbd->type == vbd_type_Disk && !vbd->empty && !comes_back &&
		    !list_has(&r->replaced, vbd->VDI))
			list_put(t, &r->detached, vbd->VDI);
	}
}

int revert_devices(struct task *t, struct revert *r, struct VM_row *vm)
{
	note_owners(t, r);
	note_detached(t, r);
	if (devices_delete(t, &class_VBD, "VM", r->vm) < 0 ||
	    devices_delete(t, &class_VIF, "VM", r->vm) < 0)
		return -1;
	return vm_copy_devices(t, &r->devices, vm);
}
