// SPDX-License-Identifier: Apache-2.0
/* vm_ask.c -- what clients ask before they do something, and calls that are others with less said. */
#include "api/call.h"
#include "api/operation.h"
#include "api/settings.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/vmm.h"

/* ---- places for devices ---- */

/* The numbers below n that no row of the class has in the field. */
static struct list free_numbers(struct task *t, const char *vm, const struct class *c,
				const char *field, int n)
{
	struct list taken = { 0 }, ret = { 0 };
	const struct field *f = model_field(c, field);
	for (struct row **r = db_find(t, c, "VM", vm); *r; r++)
		list_add(t, &taken, field_text(t, *r, f));
	for (int i = 0; i < n; i++) {
		const char *number = str(t, "%d", i);
		if (!list_has(&taken, number))
			list_add(t, &ret, number);
	}
	return ret;
}

int VM_get_allowed_VBD_devices(struct task *t, struct VM_get_allowed_VBD_devices *a)
{
	if (!db_get(t, VM, a->vm))
		return -1;
	a->result = free_numbers(t, a->vm, &class_VBD, "userdevice", VMM_DISKS);
	return 0;
}

int VM_get_allowed_VIF_devices(struct task *t, struct VM_get_allowed_VIF_devices *a)
{
	if (!db_get(t, VM, a->vm))
		return -1;
	a->result = free_numbers(t, a->vm, &class_VIF, "device", VMM_NICS);
	return 0;
}

/* ---- hosts: there is one ---- */

int VM_get_possible_hosts(struct task *t, struct VM_get_possible_hosts *a)
{
	if (!db_get(t, VM, a->vm))
		return -1;
	list_add(t, &a->result, this_host());
	return 0;
}

/* Whether it has memory enough is seen when it is started. */
int VM_assert_can_boot_here(struct task *t, struct VM_assert_can_boot_here *a)
{
	return db_get(t, VM, a->self) && db_get(t, host, a->host) ? 0 : -1;
}

int VM_assert_agile(struct task *t, struct VM_assert_agile *a)
{
	return db_get(t, VM, a->self) ? 0 : -1;
}

int VM_start_on(struct task *t, struct VM_start_on *a)
{
	struct VM_start start = { .vm = a->vm, .start_paused = a->start_paused, .force = a->force };
	return db_get(t, host, a->host) ? VM_start(t, &start) : -1;
}

int VM_resume_on(struct task *t, struct VM_resume_on *a)
{
	struct VM_resume go = { .vm = a->vm, .start_paused = a->start_paused, .force = a->force };
	return db_get(t, host, a->host) ? VM_resume(t, &go) : -1;
}

/* ---- operations ---- */

int VM_assert_operation_valid(struct task *t, struct VM_assert_operation_valid *a)
{
	const struct VM_row *vm = db_get(t, VM, a->self);
	return vm ? operation_check(t, vm, a->op) : -1;
}

/* They are worked out whenever they are read. */
int VM_update_allowed_operations(struct task *t, struct VM_update_allowed_operations *a)
{
	return db_get(t, VM, a->self) ? 0 : -1;
}

/* Each part is a call of its own: what the first has begun is undone before the second. */
int VM_shutdown(struct task *t, struct VM_shutdown *a)
{
	struct task *part = task_part(t);
	struct VM_clean_shutdown clean = { .vm = a->vm };
	struct VM_hard_shutdown hard = { .vm = a->vm };
	int result = call(part, VM_clean_shutdown, &clean);
	if (result < 0 && part->code == VM_SHUTDOWN_TIMEOUT) {
		task_forgive(part);
		result = call(part, VM_hard_shutdown, &hard);
	}
	if (result < 0)
		task_fail_params(t, part->code, part->params);
	talloc_free(part);
	return result;
}

int VM_get_cooperative(struct task *t, struct VM_get_cooperative *a)
{
	a->result = true;
	return db_get(t, VM, a->self) ? 0 : -1;
}

/* ---- memory ---- */

static int set_limits(struct task *t, const char *vm, int64_t static_min, int64_t static_max,
		      int64_t dynamic_min, int64_t dynamic_max)
{
	return VM_set_memory_limits(t,
				    &(struct VM_set_memory_limits){ .self = vm,
								    .static_min = static_min,
								    .static_max = static_max,
								    .dynamic_min = dynamic_min,
								    .dynamic_max = dynamic_max });
}

int VM_set_memory(struct task *t, struct VM_set_memory *a)
{
	return set_limits(t, a->self, a->value, a->value, a->value, a->value);
}

int VM_set_memory_dynamic_range(struct task *t, struct VM_set_memory_dynamic_range *a)
{
	const struct VM_row *vm = db_get(t, VM, a->self);
	if (!vm)
		return -1;
	return set_limits(t, a->self, vm->memory_static_min, vm->memory_static_max, a->min, a->max);
}

int VM_set_memory_static_range(struct task *t, struct VM_set_memory_static_range *a)
{
	const struct VM_row *vm = db_get(t, VM, a->self);
	if (!vm)
		return -1;
	return set_limits(t, a->self, a->min, a->max, vm->memory_dynamic_min,
			  vm->memory_dynamic_max);
}
