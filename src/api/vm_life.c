// SPDX-License-Identifier: Apache-2.0
/* vm_life.c -- VMs as processes: started, paused, shut down, reset. */
#include "api/agents.h"
#include "api/boot.h"
#include "api/call.h"
#include "api/cd.h"
#include "api/coalesce.h"
#include "api/console.h"
#include "api/firmware.h"
#include "api/guests.h"
#include "api/message.h"
#include "api/metadata.h"
#include "api/operation.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/sizes.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vtpm.h"
#include "base/delay.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"

/* How long a guest may take to shut itself down, and after what time the button is pressed again:
 * a guest that was still booting has not seen the first time. */
/* ---- start ---- */

/* A number that no running VM has, long unused: its process's user follows from it.  The database's lock
 * guards the last one. */
int64_t vm_next_domid(struct task *t)
{
	static int64_t last;
	int64_t most = (settings.qemu_uids > 1 ? settings.qemu_uids : 65536) - 1;
	do
		last = last % most + 1;
	while (*db_find(t, &class_VM, "domid", str(t, "%lld", (long long)last)));
	return last;
}

/* A CD drive is there without a disc, too. */
static int attach_drive(struct task *t, struct VBD_row *vbd)
{
	if (vbd->empty && vbd->type == vbd_type_Disk)
		return 0;
	if (!vbd->empty && vbd_check_free(t, vbd) < 0)
		return -1;
	bool cd = vbd->type == vbd_type_CD;
	vbd->currently_attached = true;
	vbd->device = cd ? cd_device_name(t, vbd) : vbd_device_name(t, vbd->userdevice);
	return db_put(t, &vbd->row);
}

/* From here on nobody else gets the disks; the journal's GUEST_KILL gives them back. */
static int attach_devices(struct task *t, const struct VM_row *vm)
{
	DB_SCOPE(t);
	struct VM_row *now = db_get(t, VM, vm->row.ref);
	if (!now || undo_guest_kill(t, now->row.ref) < 0)
		return -1;
	now->domid = vm_next_domid(t);
	now->NVRAM_stale = !ref_is_null(now->NVRAM_VDI);
	now->NVRAM_open = firmware_is_uefi(now);
	if (db_put(t, &now->row) < 0)
		return -1;
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref)
		if (attach_drive(t, vbd) < 0)
			return -1;
	DB_EACH (t, VIF, vif, "VM", vm->row.ref) {
		vif->currently_attached = true;
		if (db_put(t, &vif->row) < 0)
			return -1;
	}
	return db_commit(t);
}

static int write_start_time(struct task *t, const struct VM_row *vm)
{
	struct VM_metrics_row *m = db_seek(t, VM_metrics, vm->metrics);
	if (!m)
		return 0;
	m->start_time = m->last_updated = time_now(m);
	m->memory_actual = vm->memory_static_max;
	m->VCPUs_number = vm->VCPUs_at_startup;
	m->hvm = *vm->HVM_boot_policy != 0;
	m->current_domain_type = vm->domain_type;
	return db_put(t, &m->row);
}

int vm_mark_up(struct task *t, struct VM_row *vm, bool paused, const char *done)
{
	if (!guest_alive(vm->row.ref))
		return fail(t, INTERNAL_ERROR,
			    str(t, "the guest ended while it was being %s", done));
	vm->power_state = paused ? vm_power_state_Paused : vm_power_state_Running;
	vm->resident_on = this_host();
	return 0;
}

static int record_start(struct task *t, const char *ref, bool paused)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm_mark_up(t, vm, paused, "started") < 0)
		return -1;
	vm->last_booted_record = ""; /* or each would hold all before */
	vm->last_booted_record = metadata_write(t, &vm->row);
	if (write_start_time(t, vm) < 0 || consoles_make(t, vm) < 0 || db_put(t, &vm->row) < 0 ||
	    operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

/* The VM is busy with an operation, and has no process.  Its layers are held from before they are looked
 * at until the rows say who has them open. */
static int start_held(struct task *t, const char *ref, bool paused)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || vm_check_vcpus(t, vm) < 0 || vm_check_memory(t, vm) < 0)
		return -1;
	if (firmware_ensure(t, vm) < 0 || vtpm_ensure(t, vm) < 0 || attach_devices(t, vm) < 0)
		return -1;
	vm = db_get(t, VM, ref);
	struct vmm_config *c = vm ? boot_config(t, vm) : NULL;
	if (!c)
		return -1;
	c->paused = paused;
	int started = guest_start(t, ref, c);
	boot_done(c);
	if (started < 0)
		return -1;
	return record_start(t, ref, paused);
}

static int start_guest(struct task *t, const char *ref, bool paused)
{
	void *hold = talloc_new(t);
	int result = coalesce_hold_vm(t, hold, ref, true) < 0 ? -1 : start_held(t, ref, paused);
	talloc_free(hold);
	if (result == 0)
		coalesce_kick_vm(t, ref);
	return result;
}

int VM_start(struct task *t, struct VM_start *a)
{
	if (!operation_begin(t, a->vm, vm_operations_start))
		return -1;
	return start_guest(t, a->vm, a->start_paused);
}

/* ---- pause ---- */

typedef int guest_deed(struct task *, struct vmm *);

static int do_to_guest(struct task *t, const struct VM_row *vm, guest_deed *deed)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = vmm ? deed(t, vmm) : -1;
	talloc_free(hold);
	return result;
}

/* The VMM does the deed; the row follows. */
static int change(struct task *t, const char *ref, enum vm_operations op, guest_deed *deed,
		  enum vm_power_state after)
{
	struct VM_row *vm = operation_begin(t, ref, op);
	if (!vm || do_to_guest(t, vm, deed) < 0)
		return -1;
	DB_SCOPE(t);
	vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm->power_state != vm_power_state_Halted)
		vm->power_state = after;
	if (db_put(t, &vm->row) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

int VM_pause(struct task *t, struct VM_pause *a)
{
	return change(t, a->vm, vm_operations_pause, settings.vmm->pause, vm_power_state_Paused);
}

int VM_unpause(struct task *t, struct VM_unpause *a)
{
	struct VM_row *vm = db_seek(t, VM, a->vm);
	if (vm && vm->frozen && quiesce_release_later(t, a->vm) < 0)
		return -1;
	if (change(t, a->vm, vm_operations_unpause, settings.vmm->resume, vm_power_state_Running) <
	    0)
		return -1;
	if (quiesce_release(t, a->vm) < 0)
		task_forgive(t);   /* it is tried again */
	guest_settle(t, a->vm);    /* one whose storage is full stops again */
	agent_set_clock(t, a->vm); /* it stood meanwhile */
	return 0;
}

int VM_hard_reboot(struct task *t, struct VM_hard_reboot *a)
{
	struct VM_row *vm = db_get(t, VM, a->vm);
	if (!vm)
		return -1;
	return change(t, a->vm, vm_operations_hard_reboot, settings.vmm->reset, vm->power_state);
}

/* ---- shutdown ---- */

int vm_force_halt(struct task *t, const char *ref)
{
	if (guest_stop(t, ref) < 0)
		return -1;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || suspend_image_drop(t, vm) < 0 || guest_mark_halted(t, vm) < 0 ||
	    db_commit(t) < 0)
		return -1;
	sizes_look_at(t, ref);
	return 0;
}

int VM_hard_shutdown(struct task *t, struct VM_hard_shutdown *a)
{
	if (!operation_begin(t, a->vm, vm_operations_hard_shutdown))
		return -1;
	if (vm_force_halt(t, a->vm) < 0 || operation_end(t) < 0)
		return -1;
	firmware_note(t, a->vm);
	return 0;
}

/* Until the guest has ended by itself and its row says so. */
static int wait_halted(struct task *t, const char *ref)
{
	int64_t end = clock_ms() + delay_ms(DELAY_SHUTDOWN);
	int64_t press = clock_ms() + delay_ms(DELAY_SHUTDOWN_AGAIN);
	for (;;) {
		int64_t generation = db_generation();
		struct VM_row *vm = db_get(t, VM, ref);
		if (!vm)
			return -1;
		if (vm->power_state == vm_power_state_Halted) {
			sizes_look_at(t, ref);
			return 0;
		}
		if (clock_ms() > end)
			return fail(t, VM_SHUTDOWN_TIMEOUT, ref,
				    str(t, "%d", delay_s(DELAY_SHUTDOWN)));
		if (db_wait(t, generation, delay_ms(DELAY_SHUTDOWN_LOOK)) < 0)
			return -1;
		if (clock_ms() < press)
			continue;
		press += delay_ms(DELAY_SHUTDOWN_AGAIN);
		if (do_to_guest(t, vm, settings.vmm->shutdown) < 0)
			task_forgive(t); /* it ends just now */
	}
}

static int shut_down(struct task *t, const char *ref, enum vm_operations op)
{
	struct VM_row *vm = operation_begin(t, ref, op);
	if (!vm)
		return -1;
	bool asked = agent_shut_down(t, ref);
	/* Its agent may have said no by ending as it was told to: then there is nothing to press the button of. */
	if (do_to_guest(t, vm, settings.vmm->shutdown) < 0 && !asked && !guest_ends(t, ref))
		return -1;
	task_forgive(t);
	return wait_halted(t, ref);
}

int VM_clean_shutdown(struct task *t, struct VM_clean_shutdown *a)
{
	if (shut_down(t, a->vm, vm_operations_clean_shutdown) < 0 || operation_end(t) < 0)
		return -1;
	firmware_note(t, a->vm);
	return 0;
}

int VM_clean_reboot(struct task *t, struct VM_clean_reboot *a)
{
	if (shut_down(t, a->vm, vm_operations_clean_reboot) < 0)
		return -1;
	return start_guest(t, a->vm, false);
}
