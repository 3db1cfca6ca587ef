// SPDX-License-Identifier: Apache-2.0
/* cd.c -- discs go into drives and out of them.
 *
 * A VM without a process has a row, and that is all.  A suspended one can lose a disc, so that it
 * comes back when the disc's file is gone: its guest finds the drive empty.  It gets none: a guest
 * that has a disc mounted is not to wake up with another one.
 *
 * A running VM has the disc first and the row after it, and the journal's MEDIUM_SETTLE between:
 *
 *     insert   the VMM puts the disc in    the row names it
 *     eject    the VMM takes it out        the row says empty
 *
 * When it does not come to the row, the VM is asked what is in the drive, and the row made to
 * agree: a guest may have mounted the disc by then. */
#include "api/cd.h"

#include <stdlib.h>

#include "api/call.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/crash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* ---- drives and discs as the VMM has them ---- */

int cd_check_disc(struct task *t, const char *ref)
{
	struct VDI_row *vdi = db_get(t, VDI, ref);
	if (!vdi)
		return -1;
	if (!storage_is_borrowed(t, vdi->SR))
		return fail(t, VDI_IS_NOT_ISO, ref, enum_text("vdi_type", vdi->type));
	return 0;
}

static int disc_layers(struct task *t, const char *ref, json_t **ret)
{
	struct VDI_row *vdi = db_get(t, VDI, ref);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	return sr ? sr->layout->blockdev(t, sr, vdi->location, false, ret) : -1;
}

/* Enough to take it out; the file may be gone, and the SR detached. */
static json_t *disc_node(struct task *t, const char *ref)
{
	struct VDI_row *vdi = db_seek(t, VDI, ref);
	struct SR_row *sr = vdi ? db_seek(t, SR, vdi->SR) : NULL;
	if (!sr)
		return json_own(t, json_array());
	const struct sr place = { .uuid = sr->uuid };
	return json_own(t, json_pack("[{s:s}]", "node-name",
				     volume_node_named(t, &place, vdi->location)));
}

static struct vmm_disk drive(struct task *t, const struct VBD_row *vbd, const json_t *layers)
{
	return (struct vmm_disk){
		.id = vbd_device_id(t, vbd->userdevice),
		.position = (unsigned)atoi(vbd->userdevice),
		.layers = layers,
		.model = VMM_SATA,
		.cd = true,
		.read_only = true,
	};
}

int cd_drive(struct task *t, const struct VBD_row *vbd, int bootindex, struct vmm_disk *ret)
{
	json_t *layers = NULL;
	if (!vbd->empty && disc_layers(t, vbd->VDI, &layers) < 0)
		return -1;
	*ret = drive(t, vbd, layers);
	ret->bootindex = bootindex;
	return 0;
}

const char *cd_device_name(struct task *t, const struct VBD_row *mine)
{
	int before = 0;
	DB_EACH (t, VBD, vbd, "VM", mine->VM)
		before +=
			vbd->type == vbd_type_CD && atoi(vbd->userdevice) < atoi(mine->userdevice);
	return str(t, "sr%d", before);
}

/* ---- the row ---- */

static int write_disc(struct task *t, struct VBD_row *vbd, const char *vdi)
{
	vbd->VDI = vdi;
	vbd->empty = ref_is_null(vdi);
	return db_put(t, &vbd->row);
}

/* The row for the VM as it was then, with the process it had or without one: a start since, whose process
 * has read the row already, is not overtaken. */
static int record(struct task *t, const struct VM_row *vm, const struct VBD_row *then,
		  const char *vdi)
{
	DB_SCOPE(t);
	struct VBD_row *vbd = db_get(t, VBD, then->row.ref);
	struct VM_row *now = vbd ? db_get(t, VM, vbd->VM) : NULL;
	if (!now)
		return -1;
	if (vbd->currently_attached && (!then->currently_attached || now->domid != vm->domid))
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", now->row.ref, "start", NULL_REF);
	if (write_disc(t, vbd, vdi) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

int cd_lose_disc(struct task *t, const char *vdi)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi) {
		const struct VM_row *vm = db_seek(t, VM, vbd->VM);
		bool stays = vbd->type == vbd_type_CD || (vm && vm->is_a_snapshot);
		if (stays && write_disc(t, vbd, NULL_REF) < 0)
			return -1;
	}
	return 0;
}

/* ---- the VM ---- */

typedef int medium_fn(struct task *, struct vmm *, const struct vmm_disk *);

/* The VMM knows the drive by another name than the client. */
static int reworded(struct task *t, const struct VBD_row *vbd)
{
	if (t->code != VBD_TRAY_LOCKED)
		return -1;
	task_forgive(t);
	return fail(t, VBD_TRAY_LOCKED, vbd->row.ref);
}

static int change_medium(struct task *t, const struct VM_row *vm, const struct VBD_row *vbd,
			 const char *disc, const json_t *layers, medium_fn *change)
{
	struct vmm_disk d = drive(t, vbd, layers);
	if (undo_medium_settle(t, vbd->row.ref, disc) < 0)
		return -1;
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	crash_point();
	int result = vmm ? change(t, vmm, &d) : -1;
	crash_point();
	talloc_free(hold);
	return result < 0 ? reworded(t, vbd) : 0;
}

/* ---- the calls ---- */

static int check_drive(struct task *t, const struct VM_row *vm, const struct VBD_row *vbd,
		       const char *operation)
{
	if (vm->is_a_snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, operation);
	return vbd->type == vbd_type_CD ? 0 : fail(t, VBD_NOT_REMOVABLE_MEDIA, vbd->row.ref);
}

int VBD_insert(struct task *t, struct VBD_insert *a)
{
	json_t *layers;
	struct VBD_row *vbd =
		(struct VBD_row *)operation_begin_device(t, &class_VBD, a->vbd, "insert");
	struct VM_row *vm = vbd ? db_get(t, VM, vbd->VM) : NULL;
	if (!vm || check_drive(t, vm, vbd, "insert") < 0)
		return -1;
	if (vm->power_state == vm_power_state_Suspended)
		return bad_power_state(t, vm, "halted, running, paused");
	if (!vbd->empty)
		return fail(t, VBD_NOT_EMPTY, a->vbd);
	if (cd_check_disc(t, a->vdi) < 0 || disc_layers(t, a->vdi, &layers) < 0)
		return -1;
	if (vbd->currently_attached &&
	    change_medium(t, vm, vbd, a->vdi, layers, settings.vmm->insert) < 0)
		return -1;
	return record(t, vm, vbd, a->vdi);
}

int VBD_eject(struct task *t, struct VBD_eject *a)
{
	struct VBD_row *vbd =
		(struct VBD_row *)operation_begin_device(t, &class_VBD, a->vbd, "eject");
	struct VM_row *vm = vbd ? db_get(t, VM, vbd->VM) : NULL;
	if (!vm || check_drive(t, vm, vbd, "eject") < 0)
		return -1;
	if (vbd->empty)
		return fail(t, VBD_IS_EMPTY, a->vbd);
	bool is_running = vbd->currently_attached && vm->power_state != vm_power_state_Suspended;
	if (is_running &&
	    change_medium(t, vm, vbd, vbd->VDI, disc_node(t, vbd->VDI), settings.vmm->eject) < 0)
		return -1;
	return record(t, vm, vbd, NULL_REF);
}

/* ---- settling ---- */

/* What was begun with the VMM's half is finished or taken back, so that the tray is closed and no
 * file stays open.  Not vital, and the guest may stand in the way. */
static void tidy(struct task *t, struct vmm *vmm, const struct VBD_row *vbd, const char *disc,
		 bool in)
{
	struct task *own = task_new(t, t->name);
	json_t *layers = in ? NULL : disc_node(own, disc);
	if (!in || disc_layers(own, disc, &layers) == 0) {
		struct vmm_disk d = drive(own, vbd, layers);
		(in ? settings.vmm->insert : settings.vmm->eject)(own, vmm, &d);
	}
	if (own->code != NO_ERROR)
		log_line(t, "drive not tidied up vbd=%s error=\"%s\"", vbd->uuid, task_error(own));
	talloc_free(own);
}

static int settle_with(struct task *t, struct vmm *vmm, const struct VBD_row *then,
		       const char *disc)
{
	const char *node;
	if (settings.vmm->top(t, vmm, vbd_device_id(t, then->userdevice), &node) < 0)
		return -1;
	tidy(t, vmm, then, disc, *node != 0);
	DB_SCOPE(t);
	struct VBD_row *vbd = db_seek(t, VBD, then->row.ref);
	if (!vbd || vbd->empty == !*node)
		return 0;
	log_line(t, "drive found %s vbd=%s", *node ? "with a disc" : "empty", vbd->uuid);
	if (write_disc(t, vbd, *node ? disc : NULL_REF) < 0)
		return -1;
	return db_commit(t);
}

int cd_settle(struct task *t, const char *ref, const char *disc)
{
	void *hold = talloc_new(t);
	struct VBD_row *vbd = db_seek(t, VBD, ref);
	struct vmm *vmm = NULL;
	int result = vbd && vbd->currently_attached ? guest_find(t, hold, vbd->VM, &vmm) : 0;
	if (vmm)
		result = settle_with(t, vmm, vbd, disc);
	talloc_free(hold);
	/* A guest that ended while it was asked has no drives: they are as the rows say. */
	if (result == 0 || !guest_ends(vbd->VM))
		return result;
	task_forgive(t);
	return 0;
}
