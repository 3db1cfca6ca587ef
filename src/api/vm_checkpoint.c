// SPDX-License-Identifier: Apache-2.0
/* vm_checkpoint.c -- memory, devices, all disks and the configuration of a VM at one instant.
 *
 *     operation   VM busy with `checkpoint`                              undo OPERATION_END
 *     prepare     an empty volume for the memory; overlays, as for
 *                 a snapshot                                             undo VOL_DELETE
 *     instant     memory is write protected and all disks go over,
 *                 while the guest stands still for a moment              undo OVERLAY_KEEP, VM_RESUME
 *     save        memory comes in, and goes to its volume; the guest
 *                 runs on
 *     record      one transaction, as for a snapshot
 *
 * Of a suspended VM there is nothing to be done but to share the memory that it has. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/settings.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vm_snapshot.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

static int save(struct task *t, const struct VM_row *vm, struct plan *p, struct suspend_image *m,
		struct taken *k)
{
	struct vmm_save v = {
		.running = vm->power_state == vm_power_state_Running,
		.open = suspend_image_socket,
		.arg = m,
	};
	if (v.running && undo_vm_resume(t, vm->row.ref) < 0)
		return -1;
	if (plan_save(t, p, &v) < 0)
		return suspend_image_failed(t, m);
	k->method = v.method;
	task_span(t, 0.1, 0.95);
	if (suspend_image_finish(t, m, vm, p) < 0 || settings.vmm->save_end(t, p->vmm, false) < 0)
		return -1;
	k->memory = suspend_image_record(t, m, true);
	k->memory_bytes = m->bytes;
	return k->memory ? 0 : -1;
}

static int take_memory(struct task *t, const struct VM_row *vm, struct plan *p, struct taken *k)
{
	struct suspend_image m;
	int result = suspend_image_begin(t, vm, &m);
	if (result == 0)
		result = plan_volumes(t, p);
	if (result == 0) {
		result = save(t, vm, p, &m, k);
		if (result < 0)
			suspend_image_give_up(t, &m, p->vmm);
	}
	suspend_image_close(&m);
	return result;
}

static int share_memory(struct task *t, const struct VM_row *vm, struct plan *p, struct taken *k)
{
	k->method = "suspended";
	k->memory = suspend_image_share(t, vm->suspend_VDI, true);
	if (!k->memory)
		return -1;
	k->memory_bytes = (uint64_t)k->memory->physical_utilisation;
	return plan_volumes(t, p);
}

int VM_checkpoint(struct task *t, struct VM_checkpoint *a)
{
	struct list none = { 0 };
	struct taken k = { .name = a->new_name, .begin = clock_ms() };
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_checkpoint);
	struct plan *p = vm ? plan_disks(t, vm, &none, vdi_operations_snapshot) : NULL;
	if (!p)
		return -1;
	k.plan = p;
	task_span(t, 0, 0.1);
	if ((vm_has_process(vm) ? take_memory : share_memory)(t, vm, p, &k) < 0)
		return -1;
	t->cancellable = false;
	if (vm_snapshot_record(t, a->vm, &k) < 0)
		return -1;
	a->result = k.ret;
	plan_refresh(t, p);
	/* What its process told meanwhile was not heeded. */
	if (p->vmm && guest_settle_state(t, a->vm) < 0)
		task_forgive(t);
	log_line(t,
		 "checkpoint taken vm=%s disks=%zu method=%s pause_ms=%.1f bytes=%llu "
		 "duration_ms=%lld",
		 vm->uuid, p->n, k.method, p->pause_ms, (unsigned long long)k.memory_bytes,
		 (long long)(clock_ms() - k.begin));
	talloc_free(p->hold);
	return 0;
}
