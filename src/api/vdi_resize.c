// SPDX-License-Identifier: Apache-2.0
/* vdi_resize.c -- VDI.resize: a disk gets larger, also while a guest has it.
 *
 *     operation   disk busy with `resize`, or `resize_online`       undo OPERATION_END
 *     grow        the layout, or the VM's QEMU for what it writes    undo SIZE_SETTLE
 *     record      what the volume says; the journal's rows go
 *
 * Only a top layer grows.  A volume has its old size or its new one, never one between, and is asked
 * which after whatever goes wrong: a row that says less than the volume has would make the next
 * overlay too short for what the guest has written.  Disks never shrink: nobody knows what would
 * be cut off. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/undo.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* The VM that has the disk; NULL: none. */
static struct VM_row *user_of(struct task *t, const char *vdi)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi)
		if (vbd->currently_attached)
			return db_get(t, VM, vbd->VM);
	return NULL;
}

static int check_size(struct task *t, const struct VDI_row *vdi, int64_t size)
{
	if (size >= vdi->virtual_size)
		return 0;
	return fail(t, SR_BACKEND_FAILURE_79, "",
		    str(t,
			"VDI Invalid size [opterr=shrinking not allowed: %lld bytes, it has %lld]",
			(long long)size, (long long)vdi->virtual_size),
		    "");
}

/* A guest that comes back from its memory knows the size that its disk had; so no disk grows while memory is saved. */
static int check_user(struct task *t, const struct VM_row *vm)
{
	if (!vm)
		return 0;
	if (vm->power_state == vm_power_state_Suspended)
		return bad_power_state(t, vm, "halted, running, paused");
	return operation_check_devices(t, vm);
}

struct wish {
	enum vdi_operations op;
	int64_t size;
};

static int check(struct task *t, const struct VDI_row *vdi, const void *arg)
{
	const struct wish *w = arg;
	if (check_user(t, user_of(t, vdi->row.ref)) < 0 || operation_check_vdi(t, vdi, w->op) < 0)
		return -1;
	return check_size(t, vdi, w->size);
}

/* The mark keeps drives from being plugged and VMs from being started with the disk.  The VM that has it may end. */
static struct VDI_row *begin(struct task *t, const char *ref, int64_t size, struct VM_row **ret_vm)
{
	struct wish w = { vdi_operations_resize, size };
	struct VDI_row *vdi = db_get(t, VDI, ref);
	/* While that does not answer, nothing would settle how large the disk is. */
	if (!vdi || storage_check_place(t, vdi->SR) < 0)
		return NULL;
	if (user_of(t, ref))
		w.op = vdi_operations_resize_online;
	if (!operation_begin_vdi(t, ref, w.op, check, &w) ||
	    coalesce_hold(t, t->scope, ref, false) < 0)
		return NULL;
	vdi = db_get(t, VDI, ref);
	*ret_vm = vdi ? user_of(t, ref) : NULL;
	if (!vdi || undo_size_settle(t, *ret_vm ? (*ret_vm)->row.ref : "", ref) < 0)
		return NULL;
	return vdi;
}

static int grow_online(struct task *t, const struct sr *sr, const struct VDI_row *vdi,
		       const struct VM_row *vm, uint64_t size)
{
	json_t *layers;
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = -1;
	if (vmm && sr->layout->blockdev(t, sr, vdi->location, true, &layers) == 0)
		result = settings.vmm->resize(t, vmm, layers, size);
	if (result == 0 && sr->layout->sync)
		result = sr->layout->sync(t, sr, vdi->location);
	talloc_free(hold);
	return result;
}

static int grow(struct task *t, const struct VDI_row *vdi, const struct VM_row *vm, uint64_t size)
{
	const struct sr *sr = storage_writable_sr(t, vdi->SR);
	if (!sr || sr_round_size(t, &size) < 0)
		return -1;
	if (!sr->layout->resize)
		return fail(t, SR_OPERATION_NOT_SUPPORTED, vdi->SR);
	return vm ? grow_online(t, sr, vdi, vm, size)
		  : sr->layout->resize(t, sr, vdi->location, size);
}

static int resize(struct task *t, const char *ref, int64_t size)
{
	struct VM_row *vm;
	struct VDI_row *vdi = begin(t, ref, size, &vm);
	if (!vdi)
		return -1;
	t->cancellable = false; /* it is a matter of moments */
	if (size > vdi->virtual_size && grow(t, vdi, vm, (uint64_t)size) < 0)
		return -1;
	crash_point();
	if (storage_settle_size(t, ref) < 0 || operation_end(t) < 0)
		return -1;
	storage_refresh(t, vdi->SR, (const char *[]){ ref, NULL });
	log_line(t, "disk resized vdi=%s bytes=%lld", vdi->uuid, (long long)size);
	return 0;
}

int VDI_resize(struct task *t, struct VDI_resize *a)
{
	return resize(t, a->vdi, a->size);
}

int VDI_resize_online(struct task *t, struct VDI_resize_online *a)
{
	return resize(t, a->vdi, a->size);
}
