// SPDX-License-Identifier: Apache-2.0
/* vm_clone.c -- a new VM whose disks are layers over another's.
 *
 * A snapshot's disks are frozen: the clone's are layers over them.  A halted VM's disk is frozen by that,
 * and hidden; the VM goes on with a layer of its own:
 *
 *     before   volume (VM)        after   volume (hidden) <- overlay (VM)
 *                                                         <- copy (clone) */
#include "api/call.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/vdi_record.h"
#include "api/vm_copy.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

static int record(struct task *t, struct VM_clone *a, struct plan *p, const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, a->vm);
	if (!vm)
		return -1;
	struct vm_copy c = { .from = vm, .new_name = a->new_name, .new_ref = ref };
	if (plan_check(t, p) < 0)
		return -1;
	for (size_t i = 0; i < p->n; i++) {
		if (vdi_record_clone(t, &p->v[i]) < 0)
			return -1;
		map_set(t, &c.vdis, p->v[i].vdi->row.ref, p->v[i].new_vdi);
	}
	const char *body = str(t, "VM '%s' (uuid: %s) cloned, new name: %s", vm->name_label,
			       vm->uuid, a->new_name);
	if (plan_record_overlays(t, p) < 0 || vm_copy(t, &c) < 0 || db_put(t, &vm->row) < 0 ||
	    message_tell(t, "VM_CLONED", MESSAGE_INFORMATION, cls_VM, vm->uuid, body) < 0 ||
	    operation_end(t) < 0)
		return -1;
	a->result = c.ret->row.ref;
	return db_commit(t);
}

int vm_clone_as(struct task *t, struct VM_clone *a, const char *ref)
{
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_clone);
	struct list none = { 0 };
	struct plan *p = vm ? plan_disks(t, vm, &none, vdi_operations_clone) : NULL;
	if (!p)
		return -1;
	task_span(t, 0, 0.5);
	if (plan_overlays(t, p) < 0)
		return -1;
	task_span(t, 0.5, 1);
	if (plan_copies(t, p) < 0 || record(t, a, p, ref) < 0)
		return -1;
	plan_refresh(t, p);
	log_line(t, "vm cloned vm=%s disks=%zu", vm->uuid, p->n);
	return 0;
}

int VM_clone(struct task *t, struct VM_clone *a)
{
	return vm_clone_as(t, a, NULL);
}
