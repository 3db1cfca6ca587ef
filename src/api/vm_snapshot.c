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
 * The frozen volume becomes the snapshot's disk; the VM's disk keeps its uuid and goes on with the
 * overlay:
 *
 *     before   frozen <- guest           after   frozen (snapshot's disk) <- overlay <- guest */
#include "api/vm_snapshot.h"

#include "api/call.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/vdi_record.h"
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

static void set_figures(struct VM_row *snap, const struct taken *k)
{
	struct map *m = &snap->snapshot_info;
	const struct plan *p = k->plan;
	map_set(snap, m, "method", k->method);
	map_set(snap, m, "consistency", "crash");
	map_set(snap, m, "attempts", "1");
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
	return message_create(t, k->memory ? "VM_CHECKPOINTED" : "VM_SNAPSHOTTED", 5, cls_VM,
			      vm->uuid,
			      str(t, "VM '%s' (uuid: %s) %s, snapshot name: %s", vm->name_label,
				  vm->uuid, k->memory ? "checkpointed" : "snapshotted", k->name));
}

int vm_snapshot_record(struct task *t, const char *ref, struct taken *k)
{
	struct plan *p = k->plan;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	struct vm_copy c = {
		.from = vm, .new_name = k->name, .snapshot = true, .memory = k->memory
	};
	if (plan_check(t, p) < 0 || record_disks(t, p, &c.vdis) < 0 || vm_copy(t, &c) < 0)
		return -1;
	set_figures(c.ret, k);
	vm->parent = c.ret->row.ref;
	if (k->memory) {
		if (db_insert(t, &k->memory->row) < 0)
			return -1;
		c.ret->suspend_VDI = k->memory->row.ref;
		c.ret->power_state = vm_power_state_Suspended;
	}
	if (db_put(t, &c.ret->row) < 0 || db_put(t, &vm->row) < 0 || tell(t, vm, k) < 0 ||
	    operation_end(t) < 0)
		return -1;
	k->ret = c.ret->row.ref;
	return db_commit(t);
}

int VM_snapshot(struct task *t, struct VM_snapshot *a)
{
	int64_t begin = clock_ms();
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_snapshot);
	if (!vm)
		return -1;
	struct plan *p = plan_disks(t, vm, &a->ignore_vdis, vdi_operations_snapshot);
	if (!p)
		return -1;
	task_span(t, 0, 0.8);
	if (plan_volumes(t, p) < 0)
		return -1;
	task_span(t, 0.8, 1);
	struct taken k = { .plan = p, .name = a->new_name, .begin = begin, .method = "overlay" };
	if (plan_switch(t, p) < 0 || vm_snapshot_record(t, a->vm, &k) < 0)
		return -1;
	a->result = k.ret;
	plan_refresh(t, p);
	log_line(t, "snapshot taken vm=%s disks=%zu pause_ms=%.1f duration_ms=%lld", vm->uuid, p->n,
		 p->pause_ms, (long long)(clock_ms() - begin));
	talloc_free(p->hold);
	return 0;
}
