// SPDX-License-Identifier: Apache-2.0
#include "api/uninstall.h"

#include "api/call.h"
#include "base/task.h"
#include "db/db.h"

static bool is_used_elsewhere(struct task *t, const struct doomed *d, const char *vdi)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi)
		if (!list_has(&d->vms, vbd->VM))
			return true;
	return false;
}

/* The disks that live and die with the VM carry the key `owner` at their drive. */
static void add_disks(struct task *t, struct doomed *d, const struct VM_row *vm)
{
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref)
		if (vbd->type == vbd_type_Disk && map_get(&vbd->other_config, "owner") &&
		    db_seek(t, VDI, vbd->VDI))
			list_put(t, &d->vdis, vbd->VDI);
	if (db_seek(t, VDI, vm->suspend_VDI))
		list_put(t, &d->vdis, vm->suspend_VDI);
}

/* Youngest snapshots first: a disk that others are layers over goes after them. */
void doomed_add(struct task *t, struct doomed *d, const struct VM_row *vm, bool with_snapshots)
{
	list_put(t, &d->vms, vm->row.ref);
	add_disks(t, d, vm);
	if (!with_snapshots)
		return;
	struct row **snapshots = db_find(t, &class_VM, "snapshot_of", vm->row.ref);
	size_t n = 0;
	while (snapshots[n])
		n++;
	while (n-- > 0) {
		list_put(t, &d->vms, snapshots[n]->ref);
		add_disks(t, d, (const struct VM_row *)snapshots[n]);
	}
}

void doomed_spare(struct task *t, struct doomed *d)
{
	struct list all = list_copy(t, &d->vdis);
	for (size_t i = 0; i < all.n; i++)
		if (is_used_elsewhere(t, d, all.v[i]))
			list_remove(&d->vdis, all.v[i]);
}

static int destroy_vm(struct task *t, const char *ref)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm->power_state != vm_power_state_Halted &&
	    call(t, VM_hard_shutdown, (&(struct VM_hard_shutdown){ .vm = ref })) < 0)
		return -1;
	return call(t, VM_destroy, (&(struct VM_destroy){ .self = ref }));
}

/* Not given up when the user goes away: half of it would help nobody.  A suspended VM that was
 * shut down has lost its memory's disk already. */
int doomed_destroy(struct task *t, const struct doomed *d)
{
	for (size_t i = 0; i < d->vms.n; i++)
		if (destroy_vm(t, d->vms.v[i]) < 0)
			return -1;
	for (size_t i = 0; i < d->vdis.n; i++)
		if (db_seek(t, VDI, d->vdis.v[i]) &&
		    call(t, VDI_destroy, (&(struct VDI_destroy){ .self = d->vdis.v[i] })) < 0)
			return -1;
	return 0;
}
