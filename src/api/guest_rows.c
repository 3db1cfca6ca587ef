// SPDX-License-Identifier: Apache-2.0
/* guest_rows.c -- what becomes of a VM's rows as its process comes, stands still and goes. */
#include "api/guest.h"
#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/settings.h"
#include "api/vm.h"
#include "api/vtpm.h"
#include "base/task.h"
#include "db/db.h"

/* ---- without a process ---- */

static int mark_gone(struct task *t, struct VM_row *vm)
{
	vm->frozen = vm->NVRAM_open = false;
	vm->resident_on = NULL_REF;
	vm->domid = -1;
	if (guest_metrics_silent(t, vm) < 0 ||
	    db_delete_all(t, &class_console, "VM", vm->row.ref) < 0)
		return -1;
	return db_put(t, &vm->row);
}

int guest_mark_halted(struct task *t, struct VM_row *vm)
{
	if (vtpm_save(t, vm) < 0)
		return -1;
	vm->power_state = vm_power_state_Halted;
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref) {
		if (!vbd->currently_attached)
			continue;
		vbd->currently_attached = false;
		if (db_put(t, &vbd->row) < 0)
			return -1;
	}
	DB_EACH (t, VIF, vif, "VM", vm->row.ref) {
		if (!vif->currently_attached)
			continue;
		vif->currently_attached = false;
		if (db_put(t, &vif->row) < 0)
			return -1;
	}
	return mark_gone(t, vm);
}

int guest_mark_suspended(struct task *t, struct VM_row *vm)
{
	return mark_gone(t, vm);
}

/* ---- with one ---- */

enum vm_power_state guest_state_of(enum vmm_status status)
{
	return status == VMM_RUNNING ? vm_power_state_Running : vm_power_state_Paused;
}

/* A VM that is being started is recorded by who starts it. */
int guest_write_state(struct task *t, const char *ref, enum vm_power_state state)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm_has_process(vm) || vm->power_state == state)
		return 0;
	vm->power_state = state;
	int written =
		state == vm_power_state_Halted ? guest_mark_halted(t, vm) : db_put(t, &vm->row);
	return written < 0 ? -1 : db_commit(t);
}

/* A VM that does not answer is not known to be in another state than its row says. */
static bool ask(struct task *t, const char *ref, enum vmm_status *ret)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_get(hold, ref);
	bool answered = vmm && settings.vmm->status(t, vmm, ret) == 0;
	talloc_free(hold);
	if (!answered)
		task_forgive(t);
	return answered;
}

bool guest_settle(struct task *t, const char *ref)
{
	enum vmm_status status;
	bool full = ask(t, ref, &status) && status == VMM_IO_ERROR;
	if (full && guest_write_state(t, ref, vm_power_state_Paused) < 0)
		task_forgive(t);
	return full;
}

int guest_settle_state(struct task *t, const char *ref)
{
	enum vmm_status status;
	return ask(t, ref, &status) ? guest_write_state(t, ref, guest_state_of(status)) : 0;
}
