// SPDX-License-Identifier: Apache-2.0
/* vm.c -- VMs as records: made, limited, destroyed. */
#include "api/vm.h"

#include "api/blob.h"
#include "api/call.h"
#include "api/device.h"
#include "api/firmware.h"
#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/metadata.h"
#include "api/operation.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* ---- checks of fields ---- */

int vm_check_memory(struct task *t, const struct VM_row *vm)
{
	bool ordered = vm->memory_static_min >= 0 &&
		       vm->memory_static_min <= vm->memory_dynamic_min &&
		       vm->memory_dynamic_min <= vm->memory_dynamic_max &&
		       vm->memory_dynamic_max <= vm->memory_static_max;
	return ordered ? 0
		       : fail(t, MEMORY_CONSTRAINT_VIOLATION_ORDER,
			      "static_min <= dynamic_min <= dynamic_max <= static_max");
}

int vm_check_vcpus(struct task *t, const struct VM_row *vm)
{
	if (vm->VCPUs_max < 1)
		return fail(t, VM_NO_VCPUS, vm->row.ref);
	if (vm->VCPUs_max > 255)
		return fail(t, INVALID_VALUE, "VCPUs_max",
			    str(t, "%lld", (long long)vm->VCPUs_max));
	if (vm->VCPUs_at_startup < 1 || vm->VCPUs_at_startup > vm->VCPUs_max)
		return fail(t, INVALID_VALUE, "VCPUs_at_startup",
			    str(t, "%lld", (long long)vm->VCPUs_at_startup));
	return 0;
}

bool vm_is_shipped(const struct VM_row *vm)
{
	const char *said = map_get(&vm->other_config, "default_template");
	return vm->is_default_template || (vm->is_a_template && said && streq(said, "true"));
}

bool vm_has_process(const struct VM_row *vm)
{
	return vm && (vm->power_state == vm_power_state_Running ||
		      vm->power_state == vm_power_state_Paused);
}

struct VM_row *vm_as_started(struct task *t, const char *ref)
{
	static const char *const none[] = { NULL };
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm_has_process(vm) || !*vm->last_booted_record)
		return vm;
	struct VM_row *then = (struct VM_row *)model_copy(t, &vm->row);
	if (metadata_read(t, vm->last_booted_record, &then->row, none) < 0)
		return NULL;
	vm->platform = then->platform;
	return vm;
}

int vm_set_install_time(struct task *t, const struct VM_row *vm)
{
	struct VM_metrics_row *m = db_seek(t, VM_metrics, vm->metrics);
	if (!m)
		return 0;
	m->install_time = m->last_updated = time_now(m);
	return db_put(t, &m->row);
}

static int try_to_limit(struct task *t, void *arg)
{
	const struct VM_set_memory_limits *a = arg;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, a->self);
	if (!vm || operation_check(t, vm, vm_operations_changing_memory_limits) < 0)
		return operation_tried(t);
	vm->memory_static_min = a->static_min;
	vm->memory_static_max = a->static_max;
	vm->memory_dynamic_min = a->dynamic_min;
	vm->memory_dynamic_max = vm->memory_target = a->dynamic_max;
	if (vm_check_memory(t, vm) < 0 || db_put(t, &vm->row) < 0)
		return -1;
	return db_commit(t) < 0 ? -1 : 1;
}

int VM_set_memory_limits(struct task *t, struct VM_set_memory_limits *a)
{
	return operation_wait(t, try_to_limit, a);
}

/* ---- making ---- */

/* A record from a backup may be one of a suspended VM; its memory would be lost without a word. */
static int check_state(struct task *t, const struct VM_create *a)
{
	static const char why[] = "a new VM is halted, and gets no memory";
	if (a->power_state != vm_power_state_Halted)
		return fail(t, VALUE_NOT_SUPPORTED, "power_state",
			    enum_text("vm_power_state", (int)a->power_state), why);
	return ref_is_null(a->suspend_VDI)
		       ? 0
		       : fail(t, VALUE_NOT_SUPPORTED, "suspend_VDI", a->suspend_VDI, why);
}

int VM_create(struct task *t, struct VM_create *a)
{
	if (check_state(t, a) < 0)
		return -1;
	DB_SCOPE(t);
	struct VM_row *vm = row_new(t, VM);
	struct VM_metrics_row *metrics = row_new(t, VM_metrics);
	vm->name_label = a->name_label;
	vm->name_description = a->name_description;
	vm->memory_static_min = 16 << 20;
	vm->memory_static_max = vm->memory_dynamic_max = vm->memory_dynamic_min =
		vm->memory_target = 256 << 20;
	vm->VCPUs_max = vm->VCPUs_at_startup = 1;
	vm->HVM_boot_policy = "BIOS order";
	map_set(vm, &vm->HVM_boot_params, "order", "dc");
	vm->domain_type = domain_type_hvm;
	vm->actions_after_reboot = on_normal_exit_restart;
	map_set(vm, &vm->other_config, "mac_seed", uuid_new(vm));
	vm->metrics = metrics->row.ref;
	vm->domid = -1;
	vm->generation_id = vm_generation_id(t);
	if (db_insert(t, &metrics->row) < 0 || db_insert(t, &vm->row) < 0)
		return -1;
	a->result = vm->row.ref;
	return db_commit(t);
}

/* ---- destroying ---- */

/* Children of the VM become children of its parent. */
static int hand_on_children(struct task *t, const struct VM_row *vm)
{
	DB_EACH (t, VM, child, "parent", vm->row.ref) {
		child->parent = vm->parent;
		if (db_put(t, &child->row) < 0)
			return -1;
	}
	return 0;
}

static int delete_devices(struct task *t, const char *vm)
{
	if (devices_delete(t, &class_VBD, "VM", vm) < 0 ||
	    devices_delete(t, &class_VIF, "VM", vm) < 0 ||
	    db_delete_all(t, &class_VTPM, "VM", vm) < 0)
		return -1;
	return db_delete_all(t, &class_console, "VM", vm);
}

static int remove_later(struct task *t, const char *uuid)
{
	const char *op = undo_later(t);
	int written = undo_guest_remove(t, uuid);
	undo_now(t, op);
	return written;
}

int vm_delete(struct task *t, const struct VM_row *then)
{
	struct VM_row *vm = db_get(t, VM, then->row.ref);
	struct VM_metrics_row *metrics = vm ? db_seek(t, VM_metrics, vm->metrics) : NULL;
	if (!vm || hand_on_children(t, vm) < 0 || blobs_drop(t, vm->row.ref) < 0 ||
	    delete_devices(t, vm->row.ref) < 0 || suspend_image_drop(t, vm) < 0)
		return -1;
	if ((metrics && db_delete(t, &metrics->row) < 0) || guest_metrics_delete(t, vm) < 0)
		return -1;
	if (firmware_release(t, vm) < 0 || db_delete(t, &vm->row) < 0)
		return -1;
	return remove_later(t, vm->uuid);
}

int VM_destroy(struct task *t, struct VM_destroy *a)
{
	const struct VM_row *vm = operation_begin(t, a->self, vm_operations_destroy);
	if (!vm)
		return -1;
	DB_SCOPE(t);
	if (vm_delete(t, vm) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}
