// SPDX-License-Identifier: Apache-2.0
/* vbd.c -- the drives of a VM. */
#include "api/call.h"
#include "api/operation.h"
#include "api/vm.h"
#include "base/task.h"
#include "db/db.h"

/* The guest's firmware and PCI bus have room for this many. */
enum { POSITIONS = 28 };

const char *vbd_device_id(struct task *t, const char *userdevice)
{
	return str(t, "disk-%s", userdevice);
}

const char *vbd_device_name(struct task *t, const char *userdevice)
{
	int64_t n = 0;
	text_int(userdevice, &n);
	if (n < 26)
		return str(t, "vd%c", (char)('a' + n));
	return str(t, "vd%c%c", (char)('a' + n / 26 - 1), (char)('a' + n % 26));
}

static bool is_taken(struct task *t, const struct VBD_row *mine, const char *userdevice)
{
	DB_EACH (t, VBD, vbd, "VM", mine->VM)
		if (streq(vbd->userdevice, userdevice) && !streq(vbd->row.ref, mine->row.ref))
			return true;
	return false;
}

int vbd_check_device(struct task *t, const struct VBD_row *vbd)
{
	int64_t n;
	if (!text_int(vbd->userdevice, &n) || n < 0 || n >= POSITIONS ||
	    !streq(vbd->userdevice, str(t, "%lld", (long long)n)))
		return fail(t, INVALID_DEVICE, vbd->userdevice);
	if (is_taken(t, vbd, vbd->userdevice))
		return fail(t, DEVICE_ALREADY_EXISTS, vbd->userdevice);
	return 0;
}

/* "autodetect": the first position that is free. */
static const char *free_position(struct task *t, const struct VBD_row *vbd)
{
	for (int i = 0; i < POSITIONS; i++)
		if (!is_taken(t, vbd, str(t, "%d", i)))
			return str(t, "%d", i);
	return fail_ptr(t, DEVICE_ALREADY_EXISTS, "autodetect");
}

static int check_owner(struct task *t, const struct VM_row *vm)
{
	if (vm->is_a_snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, "create");
	/* Drives are plugged when the VM starts. */
	return vm->power_state == vm_power_state_Halted ? 0 : bad_power_state(t, vm, "halted");
}

int VBD_create(struct task *t, struct VBD_create *a)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, a->VM);
	if (!vm || check_owner(t, vm) < 0)
		return -1;
	struct VBD_row *vbd = row_new(t, VBD);
	int type = enum_value("vbd_type", a->type), mode = enum_value("vbd_mode", a->mode);
	if (type != vbd_type_Disk)
		return fail(t, VALUE_NOT_SUPPORTED, "type", a->type, "only disks can be attached");
	if (mode < 0)
		return fail(t, INVALID_VALUE, "mode", a->mode);
	struct VDI_row *vdi = db_get(t, VDI, a->VDI);
	if (!vdi)
		return -1;
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	if ((vdi->is_a_snapshot || vdi->read_only) && mode == vbd_mode_RW)
		return fail(t, VDI_READONLY, vdi->row.ref);
	vbd->VM = a->VM;
	vbd->VDI = a->VDI;
	vbd->type = vbd_type_Disk;
	vbd->mode = (enum vbd_mode)mode;
	vbd->bootable = a->bootable;
	vbd->unpluggable = a->unpluggable;
	vbd->other_config = a->other_config;
	vbd->userdevice =
		streq(a->userdevice, "autodetect") ? free_position(t, vbd) : a->userdevice;
	if (!vbd->userdevice || vbd_check_device(t, vbd) < 0 || db_insert(t, &vbd->row) < 0)
		return -1;
	a->result = vbd->row.ref;
	return db_commit(t);
}

int VBD_destroy(struct task *t, struct VBD_destroy *a)
{
	DB_SCOPE(t);
	struct VBD_row *vbd = db_get(t, VBD, a->self);
	if (!vbd)
		return -1;
	if (vbd->currently_attached)
		return fail(t, OPERATION_NOT_ALLOWED,
			    "the drive is attached; shut the VM down first");
	struct VM_row *vm = db_seek(t, VM, vbd->VM);
	if (vm && vm->is_a_snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, "destroy");
	if (db_delete(t, &vbd->row) < 0)
		return -1;
	return db_commit(t);
}
