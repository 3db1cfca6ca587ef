// SPDX-License-Identifier: Apache-2.0
/* vm_life.c -- VMs as processes: started, paused, shut down, reset. */
#include "api/agents.h"
#include "api/boot.h"
#include "api/call.h"
#include "api/cd.h"
#include "api/coalesce.h"
#include "api/console.h"
#include "api/firmware.h"
#include "api/guest_metrics.h"
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

/* ---- numbers ---- */

static bool is_taken(struct task *t, int64_t number)
{
	struct task *own = task_part(t); /* there may be many of them to look at */
	bool taken = db_refs(own, &class_VM, "domid", str(own, "%lld", (long long)number)).n > 0;
	talloc_free(own);
	return taken;
}

/* A number that no VM has, long unused: its process's user follows from it.  The database's lock
 * guards the last one.  -1: all are taken. */
static int64_t next_number(struct task *t)
{
	static int64_t last;
	int64_t most = (settings.qemu_uids > 1 ? settings.qemu_uids : 65536) - 1;
	for (int64_t tried = 0; tried < most; tried++) {
		last = last % most + 1;
		if (!is_taken(t, last))
			return last;
	}
	return fail(t, OPERATION_NOT_ALLOWED,
		    str(t,
			"%lld VMs have a process, as many as this host has numbers for: shut one "
			"down, or start the daemon with a larger range of --qemu-uids",
			(long long)most));
}

static const struct pair *operation_of(const struct VM_row *vm, const char *const *ops)
{
	for (size_t i = 0; i < vm->current_operations.n; i++)
		for (const char *const *op = ops; *op; op++)
			if (streq(vm->current_operations.v[i].value, *op))
				return &vm->current_operations.v[i];
	return NULL;
}

/* Does nobody shut the VM down by force? */
static int check_wanted(struct task *t, const struct VM_row *vm)
{
	static const char *const ends[] = { "hard_shutdown", NULL };
	const struct pair *op = operation_of(vm, ends);
	return op ? fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", vm->row.ref, op->value, op->key) : 0;
}

int vm_take_number(struct task *t, struct VM_row *vm, enum vm_power_state from,
		   const struct VM_row *then)
{
	if (vm->power_state != from)
		return bad_power_state(t, vm,
				       from == vm_power_state_Suspended ? "suspended" : "halted");
	if (check_wanted(t, vm) < 0 || undo_guest_kill(t, vm->row.ref) < 0)
		return -1;
	vm->domid = next_number(t);
	vm->NVRAM_stale = !ref_is_null(vm->NVRAM_VDI);
	vm->NVRAM_open = firmware_is_uefi(then);
	return vm->domid < 0 ? -1 : db_put(t, &vm->row);
}

/* ---- start ---- */

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
	if (!now || guest_metrics_forget(t, now) < 0 ||
	    vm_take_number(t, now, vm_power_state_Halted, now) < 0)
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

int vm_check_number(struct task *t, const struct VM_row *vm, int64_t number)
{
	return vm->domid == number ? 0 : fail(t, VM_HALTED, vm->row.ref);
}

int vm_mark_up(struct task *t, struct VM_row *vm, int64_t number, bool paused)
{
	if (check_wanted(t, vm) < 0 || vm_check_number(t, vm, number) < 0)
		return -1;
	if (!guest_alive(vm->row.ref))
		return fail(t, VM_HALTED, vm->row.ref);
	vm->power_state = paused ? vm_power_state_Paused : vm_power_state_Running;
	vm->resident_on = this_host();
	return 0;
}

static int record_start(struct task *t, const char *ref, int64_t number, bool paused)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm_mark_up(t, vm, number, paused) < 0)
		return -1;
	vm->last_booted_record = ""; /* or each would hold all before */
	vm->last_booted_record = metadata_write(t, &vm->row);
	if (write_start_time(t, vm) < 0 || consoles_make(t, vm) < 0 || db_put(t, &vm->row) < 0 ||
	    operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

static int check_limits(struct task *t, const struct VM_row *vm)
{
	return vm_check_vcpus(t, vm) < 0 ? -1 : vm_check_memory(t, vm);
}

/* The VM is busy with an operation, and has no process.  Its layers are held from before they are looked
 * at until the rows say who has them open. */
static int start_held(struct task *t, const void *hold, const char *ref, bool paused)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || check_limits(t, vm) < 0 || firmware_ensure(t, vm) < 0 || vtpm_ensure(t, vm) < 0)
		return -1;
	struct starting *s = guest_begin(t, hold, vm);
	vm = s && attach_devices(t, vm) == 0 ? db_get(t, VM, ref) : NULL;
	struct vmm_config *c = vm ? boot_config(t, vm, NULL) : NULL;
	if (!c)
		return -1;
	c->paused = paused;
	int started = guest_start(t, s, c);
	boot_done(c);
	return started < 0 ? -1 : record_start(t, ref, vm->domid, paused);
}

struct wish {
	const char *vm;
	bool paused;
};

/* Has it failed since somebody is busy with one of its disks?  That will be over. */
static bool is_for_a_disk(const struct task *t)
{
	return t->code == OTHER_OPERATION_IN_PROGRESS && streq(t->params[0], "VDI");
}

/* Does anybody stand against it that the VM gets its disks? */
static int check_drives(struct task *t, const char *ref)
{
	DB_EACH (t, VBD, vbd, "VM", ref)
		if (!vbd->empty && vbd_check_free(t, vbd) < 0)
			return -1;
	return 0;
}

/* What was held is not what the disks have when somebody has been busy with them: each try begins anew. */
static int try_to_start(struct task *t, void *arg)
{
	const struct wish *w = arg;
	void *hold = talloc_new(t);
	bool started = check_drives(t, w->vm) == 0 && coalesce_hold_vm(t, hold, w->vm, true) == 0 &&
		       start_held(t, hold, w->vm, w->paused) == 0;
	talloc_free(hold);
	return started ? 1 : is_for_a_disk(t) ? 0 : -1;
}

static int start_guest(struct task *t, const char *ref, bool paused)
{
	struct wish w = { ref, paused };
	if (operation_wait(t, try_to_start, &w) < 0)
		return -1;
	coalesce_kick_vm(t, ref);
	return 0;
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

/* What the VMM has done is said by the row, if the VM has not ended since. */
static int record_state(struct task *t, const char *ref, enum vm_power_state state)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm_has_process(vm))
		vm->power_state = state;
	if (db_put(t, &vm->row) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

int VM_pause(struct task *t, struct VM_pause *a)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_pause);
	if (!vm || do_to_guest(t, vm, settings.vmm->pause) < 0)
		return -1;
	return record_state(t, a->vm, vm_power_state_Paused);
}

/* The thaw of a frozen guest is a deed to come from before it runs. */
static int let_go(struct task *t, const struct VM_row *vm)
{
	if (vm->frozen && quiesce_release_later(t, vm->row.ref) < 0)
		return -1;
	return do_to_guest(t, vm, settings.vmm->resume);
}

int VM_unpause(struct task *t, struct VM_unpause *a)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_unpause);
	if (!vm || let_go(t, vm) < 0 || record_state(t, a->vm, vm_power_state_Running) < 0)
		return -1;
	if (quiesce_release(t, a->vm) < 0)
		task_forgive(t);   /* it is tried again */
	guest_settle(t, a->vm);    /* one whose storage is full stops again */
	agent_set_clock(t, a->vm); /* it stood meanwhile */
	return 0;
}

static int record_reset(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || guest_metrics_forget(t, vm) < 0 || db_put(t, &vm->row) < 0 ||
	    operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

/* A guest that stands still goes on doing so. */
int VM_hard_reboot(struct task *t, struct VM_hard_reboot *a)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_hard_reboot);
	return !vm || do_to_guest(t, vm, settings.vmm->reset) < 0 ? -1 : record_reset(t, a->vm);
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

/* A reboot starts the VM when its guest has ended.  The reboot has to find our mark before we take
 * that off, or the VM would run a moment after it was shut down.  A resume is not waited for: it
 * finds that the VM is not suspended any more. */
static int wait_for_reboots(struct task *t, const char *ref)
{
	static const char *const starts[] = { "clean_reboot", NULL };
	int64_t end = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	for (;;) {
		int64_t generation = db_generation();
		const struct VM_row *vm = db_get(t, VM, ref);
		const struct pair *op = vm ? operation_of(vm, starts) : NULL;
		int left = (int)(end - clock_ms());
		if (!op)
			return vm ? 0 : -1;
		if (left <= 0)
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", ref, op->value, op->key);
		if (db_wait(t, generation, left) < 0)
			return -1;
	}
}

int VM_hard_shutdown(struct task *t, struct VM_hard_shutdown *a)
{
	if (!operation_begin(t, a->vm, vm_operations_hard_shutdown))
		return -1;
	if (vm_force_halt(t, a->vm) < 0 || wait_for_reboots(t, a->vm) < 0 || operation_end(t) < 0)
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

static int shut_down(struct task *t, const struct VM_row *vm)
{
	const char *ref = vm->row.ref;
	bool asked = agent_shut_down(t, ref);
	/* Its agent may have said no by ending as it was told to: then there is nothing to press the button of. */
	if (do_to_guest(t, vm, settings.vmm->shutdown) < 0 && !asked && !guest_ends(ref))
		return -1;
	task_forgive(t);
	return wait_halted(t, ref);
}

int VM_clean_shutdown(struct task *t, struct VM_clean_shutdown *a)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_clean_shutdown);
	if (!vm || shut_down(t, vm) < 0 || operation_end(t) < 0)
		return -1;
	firmware_note(t, a->vm);
	return 0;
}

/* Before the guest is asked to end: will it start again? */
static int check_start(struct task *t, const char *ref)
{
	void *hold = talloc_new(t);
	struct VM_row *vm = coalesce_hold_vm(t, hold, ref, true) < 0 ? NULL : db_get(t, VM, ref);
	int result = !vm || check_limits(t, vm) < 0 ? -1 : boot_check(t, vm, vm, NULL);
	talloc_free(hold);
	return result;
}

int VM_clean_reboot(struct task *t, struct VM_clean_reboot *a)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_clean_reboot);
	if (!vm || check_start(t, a->vm) < 0 || shut_down(t, vm) < 0)
		return -1;
	vm = db_get(t, VM, a->vm);
	return !vm || check_wanted(t, vm) < 0 ? -1 : start_guest(t, a->vm, false);
}
