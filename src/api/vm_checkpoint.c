// SPDX-License-Identifier: Apache-2.0
/* vm_checkpoint.c -- memory, devices, all disks and the configuration of a VM at one instant.
 *
 *     operation   VM busy with `checkpoint`; devices stay as they are    undo OPERATION_END
 *     prepare     an empty volume for the memory; overlays, as for
 *                 a snapshot                                             undo VOL_DELETE
 *     instant     memory is write protected and all disks go over,
 *                 while the guest stands still for a moment              undo OVERLAY_KEEP, VM_RESUME
 *     save        memory comes in, and goes to its volume; the guest
 *                 runs on
 *     record      one transaction, as for a snapshot
 *
 * Quiesced, the guest is frozen before the instant, and thawed while its memory comes in: what is saved is a frozen
 * guest, and the image says so (quiesce.h).
 *
 * Of a suspended VM there is nothing to be done but to share the memory that it has. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vm_snapshot.h"
#include "api/vtpm.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

struct taking {
	const struct VM_row *vm;
	struct taken taken;
};

/* The guest is thawed as soon as it runs again: its memory is collected meanwhile. */
static int save(struct task *t, struct taking *k, struct plan *p, struct suspend_image *m)
{
	struct quiesce *q = k->taken.quiesce;
	m->frozen |= q && !q->off;
	struct vmm_save v = {
		.running = k->vm->power_state == vm_power_state_Running,
		.open = suspend_image_socket,
		.arg = m,
	};
	if (v.running && undo_vm_resume(t, k->vm->row.ref) < 0)
		return -1;
	if (settings.vmm->rehearse(t, p->vmm, &v) < 0)
		return suspend_image_failed(t, m);
	m->cpu = v.cpu;
	if (quiesce_freeze(t, q) < 0)
		return -1;
	if (plan_save(t, p, &v) < 0)
		return suspend_image_failed(t, m);
	k->taken.tpm = vtpm_now(t, k->vm);
	if (quiesce_thaw(t, q) < 0)
		return -1;
	plan_tidy(t, p);
	k->taken.method = v.method;
	task_span(t, 0.1, 0.95);
	if (suspend_image_finish(t, m, k->vm, p) < 0 ||
	    settings.vmm->save_end(t, p->vmm, false) < 0)
		return -1;
	k->taken.memory = suspend_image_record(t, m, true);
	k->taken.memory_bytes = m->bytes;
	return k->taken.memory ? 0 : -1;
}

static int take_memory(struct task *t, struct taking *k, struct plan *p)
{
	struct suspend_image m;
	int result = suspend_image_begin(t, k->vm, &m);
	if (result == 0)
		result = plan_volumes(t, p) < 0 ? -1 : plan_prepare(t, p);
	if (result == 0) {
		result = save(t, k, p, &m);
		if (result < 0)
			suspend_image_give_up(t, &m, p->vmm);
	}
	suspend_image_close(&m);
	return result;
}

static int share_memory(struct task *t, struct taking *k, struct plan *p)
{
	k->taken.method = "suspended";
	k->taken.memory = suspend_image_share(t, k->vm->suspend_VDI, true);
	if (!k->taken.memory)
		return -1;
	k->taken.memory_bytes = (uint64_t)k->taken.memory->physical_utilisation;
	return plan_volumes(t, p);
}

static int take_all(struct task *t, void *arg)
{
	struct taking *k = arg;
	struct list none = { 0 };
	struct plan *p = plan_disks(t, k->vm, &none, vdi_operations_snapshot);
	if (!p)
		return -1;
	if (k->taken.quiesce)
		talloc_steal(k->taken.quiesce->scope, p);
	k->taken.plan = p;
	task_span(t, 0, 0.1);
	return (vm_has_process(k->vm) ? take_memory : share_memory)(t, k, p);
}

static int quiesced(struct task *t, struct VM_checkpoint *a, struct taking *k, struct quiesce *q)
{
	if (k->vm->power_state != vm_power_state_Running)
		return bad_power_state(t, k->vm, "running");
	if (quiesce_check(t, k->vm) < 0 ||
	    quiesce_config(t, k->vm, a->attempts, a->fallback, q) < 0)
		return -1;
	k->taken.quiesce = q;
	return quiesce_run(t, q, take_all, k);
}

static int record(struct task *t, struct taking *k)
{
	struct plan *p = k->taken.plan;
	const char *ref = k->vm->row.ref;
	t->cancellable = false;
	if (vm_snapshot_record(t, ref, &k->taken) < 0)
		return -1;
	plan_refresh(t, p);
	/* What its process told meanwhile was not heeded. */
	if (p->vmm && guest_settle_state(t, ref) < 0)
		task_forgive(t);
	log_line(t,
		 "checkpoint taken vm=%s disks=%zu method=%s pause_ms=%.1f bytes=%llu "
		 "duration_ms=%lld",
		 k->vm->uuid, p->n, k->taken.method, p->pause_ms,
		 (unsigned long long)k->taken.memory_bytes,
		 (long long)(clock_ms() - k->taken.begin));
	talloc_free(p->hold);
	return 0;
}

/* QEMU aborts when a merge writes a disk behind the end of a migration.  Until the end of the call. */
static int hold_layers(struct task *t, const struct VM_row *vm)
{
	return vm_has_process(vm) ? coalesce_hold_vm(t, t->scope, vm->row.ref, true) : 0;
}

int VM_checkpoint(struct task *t, struct VM_checkpoint *a)
{
	struct quiesce q;
	struct taking k = { .taken = { .name = a->new_name, .begin = clock_ms() } };
	k.vm = operation_begin(t, a->vm, vm_operations_checkpoint);
	if (!k.vm)
		return -1;
	k.taken.number = k.vm->domid;
	if (operation_wait_devices(t, a->vm) < 0 || hold_layers(t, k.vm) < 0)
		return -1;
	int taken = a->quiesce ? quiesced(t, a, &k, &q) : take_all(t, &k);
	if (taken < 0 || record(t, &k) < 0)
		return -1;
	a->result = k.taken.ret;
	return 0;
}
