// SPDX-License-Identifier: Apache-2.0
/* vm_snapshot.c -- all disks and the configuration of a VM at one instant.
 *
 * Everything slow is before or after the instant:
 *
 *     operation   VM busy with `snapshot`                               undo OPERATION_END
 *     prepare     an overlay per disk, made and opened in the guest's
 *                 QEMU, unused                                          undo VOL_DELETE
 *     instant     all disks go over to their overlays, all or none      undo OVERLAY_KEEP
 *     record      one transaction: snapshot VM, disks, devices; the
 *                 journal's rows go
 *
 * Where it is to be quiesced, an attempt is what lies between the operation's begin and the record: the guest is frozen
 * before the instant and thawed behind it (quiesce.h).
 *
 * The frozen volume becomes the snapshot's disk; the VM's disk keeps its uuid and goes on with the
 * overlay:
 *
 *     before   frozen <- guest           after   frozen (snapshot's disk) <- overlay <- guest */
#include "api/vm_snapshot.h"

#include "api/call.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/quiesce.h"
#include "api/session.h"
#include "api/vdi_record.h"
#include "api/vm.h"
#include "api/vm_copy.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

static int record_disks(struct task *t, struct plan *p, struct map *ret_vdis)
{
	for (size_t i = 0; i < p->n; i++) {
		struct plan_disk *d = &p->v[i];
		if (vdi_record_snapshot(t, d) < 0)
			return -1;
		map_set(t, ret_vdis, d->vdi->row.ref, d->new_vdi);
	}
	return plan_record_overlays(t, p);
}

static void set_quiesced(struct VM_row *snap, const struct quiesce *q)
{
	struct map *m = &snap->snapshot_info;
	map_set(snap, m, "consistency", q && !q->off ? q->consistency : "crash");
	map_set(snap, m, "attempts", str(snap, "%d", q ? q->attempt : 1));
	if (q && q->off)
		map_set(snap, m, "quiesce-error", q->why);
	if (!q || q->off)
		return;
	map_set(snap, m, "disk-snapshot-type", "quiesced");
	map_set(snap, m, "freeze-ms", str(snap, "%.1f", q->freeze_ms));
}

static void set_figures(struct VM_row *snap, const struct taken *k)
{
	struct map *m = &snap->snapshot_info;
	const struct plan *p = k->plan;
	map_set(snap, m, "method", k->method);
	set_quiesced(snap, k->quiesce);
	map_set(snap, m, "guest-pause-ms", str(snap, "%.1f", p->pause_ms));
	if (p->copy_bytes)
		map_set(snap, m, "copy-bytes",
			str(snap, "%llu", (unsigned long long)p->copy_bytes));
	if (k->memory)
		map_set(snap, m, "memory-bytes",
			str(snap, "%llu", (unsigned long long)k->memory_bytes));
	map_set(snap, m, "duration-ms", str(snap, "%lld", (long long)(clock_ms() - k->begin)));
}

/* The message that tells of it. */
static int tell(struct task *t, const struct VM_row *vm, const struct taken *k)
{
	return message_tell(t, k->memory ? "VM_CHECKPOINTED" : "VM_SNAPSHOTTED",
			    MESSAGE_INFORMATION, cls_VM, vm->uuid,
			    str(t, "VM '%s' (uuid: %s) %s, snapshot name: %s", vm->name_label,
				vm->uuid, k->memory ? "checkpointed" : "snapshotted", k->name));
}

/* What is new, or what a suspended VM has had. */
static int store_memory(struct task *t, struct VM_row *snap, struct VDI_row *memory)
{
	bool is_there = db_seek(t, VDI, memory->row.ref) != NULL;
	snap->suspend_VDI = memory->row.ref;
	snap->power_state = vm_power_state_Suspended;
	return is_there ? db_put(t, &memory->row) : db_insert(t, &memory->row);
}

int vm_snapshot_store(struct task *t, const char *ref, struct taken *k)
{
	struct plan *p = k->plan;
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	struct vm_copy c = { .from = vm,
			     .new_name = k->name,
			     .snapshot = true,
			     .memory = k->memory,
			     .tpm = k->tpm };
	/* The memory knows the devices that were attached; those of a VM that has ended are not. */
	if (k->memory && vm_check_number(t, vm, k->number) < 0)
		return -1;
	if (plan_check(t, p) < 0 || record_disks(t, p, &c.vdis) < 0 || vm_copy(t, &c) < 0)
		return -1;
	set_figures(c.ret, k);
	c.ret->is_vmss_snapshot = session_is_of_schedules(t);
	vm->parent = c.ret->row.ref;
	if (k->memory && store_memory(t, c.ret, k->memory) < 0)
		return -1;
	k->ret = c.ret->row.ref;
	return db_put(t, &c.ret->row) < 0 || db_put(t, &vm->row) < 0 ? -1 : tell(t, vm, k);
}

int vm_snapshot_record(struct task *t, const char *ref, struct taken *k)
{
	DB_SCOPE(t);
	if (vm_snapshot_store(t, ref, k) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

/* ---- taking ---- */

struct taking {
	const struct VM_row *vm;
	const struct list *ignore;
	struct taken taken;
};

static int switch_frozen(struct task *t, struct plan *p, struct quiesce *q)
{
	if (plan_prepare(t, p) < 0 || quiesce_freeze(t, q) < 0 || plan_switch(t, p) < 0 ||
	    quiesce_thaw(t, q) < 0)
		return -1;
	plan_tidy(t, p);
	return 0;
}

static int take_disks(struct task *t, void *arg)
{
	struct taking *k = arg;
	struct plan *p = plan_disks(t, k->vm, k->ignore, vdi_operations_snapshot);
	if (!p)
		return -1;
	if (k->taken.quiesce)
		talloc_steal(k->taken.quiesce->scope, p);
	k->taken.plan = p;
	task_span(t, 0, 0.8);
	if (plan_volumes(t, p) < 0)
		return -1;
	task_span(t, 0.8, 1);
	return switch_frozen(t, p, k->taken.quiesce);
}

static int record(struct task *t, struct taking *k)
{
	struct plan *p = k->taken.plan;
	t->cancellable = false;
	if (vm_snapshot_record(t, k->vm->row.ref, &k->taken) < 0)
		return -1;
	plan_refresh(t, p);
	log_line(t, "snapshot taken vm=%s disks=%zu pause_ms=%.1f duration_ms=%lld", k->vm->uuid,
		 p->n, p->pause_ms, (long long)(clock_ms() - k->taken.begin));
	talloc_free(p->hold);
	return 0;
}

int VM_snapshot(struct task *t, struct VM_snapshot *a)
{
	struct taking k = {
		.ignore = &a->ignore_vdis,
		.taken = { .name = a->new_name, .begin = clock_ms(), .method = "overlay" },
	};
	k.vm = operation_begin(t, a->vm, vm_operations_snapshot);
	if (!k.vm || take_disks(t, &k) < 0 || record(t, &k) < 0)
		return -1;
	a->result = k.taken.ret;
	return 0;
}

int VM_snapshot_with_quiesce(struct task *t, struct VM_snapshot_with_quiesce *a)
{
	struct quiesce q;
	struct list none = { 0 };
	struct taking k = {
		.ignore = &none,
		.taken = { .name = a->new_name,
			   .begin = clock_ms(),
			   .method = "overlay",
			   .quiesce = &q },
	};
	k.vm = operation_begin(t, a->vm, vm_operations_snapshot_with_quiesce);
	if (!k.vm || quiesce_config(t, k.vm, a->attempts, a->fallback, &q) < 0 ||
	    quiesce_run(t, &q, take_disks, &k) < 0 || record(t, &k) < 0)
		return -1;
	a->result = k.taken.ret;
	return 0;
}
