// SPDX-License-Identifier: Apache-2.0
#include "api/uninstall.h"

#include "api/call.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/vdi.h"
#include "api/vm.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

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

/* ---- the call ---- */

/* What VM.destroy would be refused for, and of one that runs VM.hard_shutdown before it. */
static int check_vm(struct task *t, const struct VM_row *vm)
{
	struct VM_row *halted = (struct VM_row *)model_copy(t, &vm->row);
	halted->power_state = vm_power_state_Halted;
	halted->current_operations = (struct map){ 0 };
	if (operation_check(t, halted, vm_operations_destroy) < 0)
		return -1;
	return vm_has_process(vm) ? operation_check(t, vm, vm_operations_hard_shutdown) : 0;
}

static int begin(struct task *t, const struct doomed *d)
{
	for (size_t i = 0; i < d->vms.n; i++) {
		struct VM_row *vm = operation_begin(t, d->vms.v[i], vm_operations_shutdown);
		if (!vm || check_vm(t, vm) < 0)
			return -1;
	}
	for (size_t i = 0; i < d->vdis.n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, d->vdis.v[i]);
		if (vdi && storage_check_place(t, vdi->SR) < 0)
			return -1;
	}
	return 0;
}

/* What is left to be done when the records are gone. */
struct rest {
	const struct doomed *doomed;
	struct list running, srs;
};

/* Disks that others have got since they were chosen are spared. */
static int delete_disks(struct task *t, struct rest *r)
{
	const struct list *vdis = &r->doomed->vdis;
	for (size_t i = 0; i < vdis->n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, vdis->v[i]);
		if (!vdi || *db_find(t, &class_VBD, "VDI", vdis->v[i]))
			continue;
		list_put(r, &r->srs, vdi->SR);
		if (vdi_delete(t, vdis->v[i]) < 0)
			return -1;
	}
	return 0;
}

static int delete_vms(struct task *t, struct rest *r)
{
	const struct list *vms = &r->doomed->vms;
	for (size_t i = 0; i < vms->n; i++) {
		const struct VM_row *vm = db_get(t, VM, vms->v[i]);
		if (vm_has_process(vm))
			list_add(r, &r->running, vm->row.ref);
		if (!vm || vm_delete(t, vm) < 0)
			return -1;
	}
	return 0;
}

/* All or nothing, and not while a disk of it is busy. */
static int try_to_record(struct task *t, void *arg)
{
	struct rest *r = arg;
	DB_SCOPE(t);
	r->running = r->srs = (struct list){ 0 };
	if (delete_vms(t, r) < 0 || delete_disks(t, r) < 0)
		return operation_tried(t);
	return journal_drop(t) < 0 || db_commit(t) < 0 ? -1 : 1;
}

static void refresh(struct task *t, const struct list *srs)
{
	for (size_t i = 0; i < srs->n; i++)
		storage_refresh(t, srs->v[i], (const char *[]){ NULL });
}

int doomed_delete(struct task *t, const struct doomed *d)
{
	struct rest *r = talloc_zero(t, struct rest);
	r->doomed = d;
	{
		DB_SCOPE(t);
		if (delete_vms(t, r) < 0 || delete_disks(t, r) < 0 || db_commit(t) < 0)
			return -1;
	}
	refresh(t, &r->srs);
	return 0;
}

/* A process that does not end now is a deed to come, as that of a VM whose daemon died here. */
static void end_processes(struct task *t, const struct list *running)
{
	for (size_t i = 0; i < running->n; i++) {
		crash_point();
		if (guest_stop(t, running->v[i]) == 0)
			continue;
		log_line(t, "the process of a VM that is gone does not end error=\"%s\"",
			 task_error(t));
		task_forgive(t);
	}
}

/* From the record on it is not given up when the user goes away: it is a matter of moments. */
static int run(struct task *t, void *arg)
{
	struct rest *r = talloc_zero(t, struct rest);
	r->doomed = arg;
	if (begin(t, r->doomed) < 0)
		return -1;
	crash_point();
	if (operation_wait(t, try_to_record, r) < 0)
		return -1;
	t->cancellable = false;
	end_processes(t, &r->running);
	refresh(t, &r->srs);
	return 0;
}

static const struct call call_uninstall = {
	.name = "VM.uninstall", .result = VOID, .role = role_vm_admin, .run = run, .waited = true
};

int doomed_destroy(struct task *t, struct doomed *d)
{
	return api_call(t, &call_uninstall, d);
}
