// SPDX-License-Identifier: Apache-2.0
/* vm_full_copy.c -- VM.copy: a new VM with disks of its own, which share nothing with the old ones
 * and may lie in another SR.
 *
 *     before   base <- snapshot's volume        after   the same, untouched, and   copy
 *
 * The old volumes are only read: others may read them too meanwhile, or put layers over them. */
#include "api/call.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/vdi.h"
#include "api/vdi_record.h"
#include "api/vm_copy.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* ---- content ---- */

/* A disk's share of the progress is its share of all bytes. */
static int copy_disks(struct task *t, const struct plan *p, const char *sr, struct VDI_row **ret)
{
	double all = 0, done = 0;
	for (size_t i = 0; i < p->n; i++)
		all += (double)p->v[i].vdi->virtual_size;
	for (size_t i = 0; i < p->n; i++) {
		const struct VDI_row *from = p->v[i].vdi;
		task_span(t, done / all, (done + (double)from->virtual_size) / all);
		ret[i] = vdi_make_copy(t, from, ref_is_null(sr) ? from->SR : sr);
		if (!ret[i])
			return -1;
		done += (double)from->virtual_size;
	}
	task_span(t, 0, 1);
	return 0;
}

/* ---- records ---- */

static int record(struct task *t, struct VM_copy *a, struct plan *p, struct VDI_row **made,
		  const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, a->vm);
	if (!vm)
		return -1;
	struct vm_copy c = { .from = vm, .new_name = a->new_name, .new_ref = ref };
	for (size_t i = 0; i < p->n; i++) {
		if (vdi_record_copy(t, p->v[i].vdi->row.ref, made[i], &p->v[i].new_vdi) < 0)
			return -1;
		map_set(t, &c.vdis, p->v[i].vdi->row.ref, p->v[i].new_vdi);
	}
	const char *body = str(t, "VM '%s' (uuid: %s) copied, new name: %s", vm->name_label,
			       vm->uuid, a->new_name);
	if (vm_copy(t, &c) < 0 ||
	    message_tell(t, "VM_CLONED", MESSAGE_INFORMATION, cls_VM, vm->uuid, body) < 0 ||
	    operation_end(t) < 0)
		return -1;
	a->result = c.ret->row.ref;
	return db_commit(t);
}

int vm_full_copy_as(struct task *t, struct VM_copy *a, const char *ref)
{
	if (storage_check_target(t, a->sr) < 0)
		return -1;
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_copy);
	struct list none = { 0 };
	struct plan *p = vm ? plan_disks(t, vm, &none, vdi_operations_copy) : NULL;
	if (!p)
		return -1;
	struct VDI_row **made = talloc_zero_array(t, struct VDI_row *, p->n + 1);
	if (copy_disks(t, p, a->sr, made) < 0 || record(t, a, p, made, ref) < 0)
		return -1;
	for (size_t i = 0; i < p->n; i++)
		storage_refresh(t, made[i]->SR, (const char *[]){ p->v[i].new_vdi, NULL });
	log_line(t, "vm copied vm=%s disks=%zu", vm->uuid, p->n);
	return 0;
}

int VM_copy(struct task *t, struct VM_copy *a)
{
	return vm_full_copy_as(t, a, NULL);
}
