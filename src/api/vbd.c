// SPDX-License-Identifier: Apache-2.0
/* vbd.c -- the drives of a VM. */
#include "api/call.h"
#include "api/cd.h"
#include "api/device.h"
#include "api/need.h"
#include "api/operation.h"
#include "api/vm.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/vmm.h"

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

/* "xvdb", "hdb" and "sdb" are position 1, as XenServer knows them; anything else stays. */
static const char *position_of(struct task *t, const char *name)
{
	static const char *const prefixes[] = { "xvd", "hd", "sd" };
	for (size_t i = 0; i < COUNT(prefixes); i++) {
		const char *letters = name + strlen(prefixes[i]);
		size_t n = starts_with(name, prefixes[i]) ? strlen(letters) : 0;
		if (!n || n > 2 || strspn(letters, "abcdefghijklmnopqrstuvwxyz") != n)
			continue;
		int position =
			n == 1 ? letters[0] - 'a' : (letters[0] - 'a' + 1) * 26 + letters[1] - 'a';
		return str(t, "%d", position);
	}
	return name;
}

static bool is_taken(struct task *t, const struct VBD_row *mine, const char *userdevice)
{
	DB_EACH (t, VBD, vbd, "VM", mine->VM)
		if (streq(vbd->userdevice, userdevice) && !streq(vbd->row.ref, mine->row.ref))
			return true;
	return false;
}

static int positions(const struct VBD_row *vbd)
{
	return vbd->type == vbd_type_CD ? VMM_SATA_DISKS : VMM_DISKS;
}

int vbd_check_device(struct task *t, const struct VBD_row *vbd)
{
	int64_t n;
	if (!text_int(vbd->userdevice, &n) || n < 0 || n >= positions(vbd) ||
	    !streq(vbd->userdevice, str(t, "%lld", (long long)n)))
		return fail(t, INVALID_DEVICE, vbd->userdevice);
	if (is_taken(t, vbd, vbd->userdevice))
		return fail(t, DEVICE_ALREADY_EXISTS, vbd->userdevice);
	return 0;
}

int vbd_check_free(struct task *t, const struct VBD_row *mine)
{
	struct VDI_row *vdi = db_get(t, VDI, mine->VDI);
	if (!vdi)
		return -1;
	if (need_check(t, vdi, NEED_ATTACH, "attach") < 0)
		return -1;
	if (mine->mode == vbd_mode_RW && (vdi->is_a_snapshot || vdi->read_only))
		return fail(t, VDI_READONLY, vdi->row.ref);
	for (size_t i = 0; i < vdi->current_operations.n && mine->type != vbd_type_CD; i++) {
		const struct pair *op = &vdi->current_operations.v[i];
		if (!streq(op->key, t->ref))
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", vdi->row.ref, op->value,
				    op->key);
	}
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref) {
		bool shared = vdi->sharable || vdi->is_a_snapshot ||
			      (vbd->mode == vbd_mode_RO && mine->mode == vbd_mode_RO);
		if (!shared && !streq(vbd->row.ref, mine->row.ref) && need_holds(t, vbd))
			return fail(t, VDI_IN_USE, vdi->row.ref, "attach");
	}
	return 0;
}

/* "autodetect": the first position that is free; for a CD drive the fourth one, as users of XenServer
 * expect, if it is. */
static const char *free_position(struct task *t, const struct VBD_row *vbd)
{
	if (vbd->type == vbd_type_CD && !is_taken(t, vbd, "3"))
		return "3";
	for (int i = 0; i < positions(vbd); i++)
		if (!is_taken(t, vbd, str(t, "%d", i)))
			return str(t, "%d", i);
	return fail_ptr(t, DEVICE_ALREADY_EXISTS, "autodetect");
}

static int check_owner(struct task *t, const struct VM_row *vm)
{
	return vm->is_a_snapshot ? fail(t, VM_IS_SNAPSHOT, vm->row.ref, "create") : 0;
}

static int check_disk(struct task *t, const struct VBD_row *vbd)
{
	struct VDI_row *vdi = db_get(t, VDI, vbd->VDI);
	if (!vdi)
		return -1;
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	if ((vdi->is_a_snapshot || vdi->read_only) && vbd->mode == vbd_mode_RW)
		return fail(t, VDI_READONLY, vdi->row.ref);
	return 0;
}

int vbd_check_kind(struct task *t, const struct VBD_row *vbd)
{
	if (vbd->type == vbd_type_Floppy)
		return fail(t, VALUE_NOT_SUPPORTED, "type", "Floppy", "there are disks and CDs");
	if (vbd->type != vbd_type_CD)
		return vbd->empty ? 0 : check_disk(t, vbd);
	if (vbd->mode != vbd_mode_RO)
		return fail(t, VBD_CDS_MUST_BE_READONLY);
	return vbd->empty ? 0 : cd_check_disc(t, vbd->VDI);
}

int VBD_create(struct task *t, struct VBD_create *a)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, a->VM);
	if (!vm || check_owner(t, vm) < 0)
		return -1;
	struct VBD_row *vbd = row_new(t, VBD);
	int type = enum_value("vbd_type", a->type), mode = enum_value("vbd_mode", a->mode);
	if (type < 0)
		return fail(t, INVALID_VALUE, "type", a->type);
	if (mode < 0)
		return fail(t, INVALID_VALUE, "mode", a->mode);
	vbd->VM = a->VM;
	vbd->VDI = a->VDI;
	vbd->type = (enum vbd_type)type;
	vbd->mode = (enum vbd_mode)mode;
	vbd->empty = type == vbd_type_CD && ref_is_null(a->VDI);
	vbd->bootable = a->bootable;
	vbd->unpluggable = a->unpluggable;
	vbd->other_config = a->other_config;
	vbd->userdevice = streq(a->userdevice, "autodetect") ? free_position(t, vbd)
							     : position_of(t, a->userdevice);
	if (!vbd->userdevice || vbd_check_kind(t, vbd) < 0 || vbd_check_device(t, vbd) < 0 ||
	    device_insert(t, &vbd->row) < 0)
		return -1;
	a->result = vbd->row.ref;
	return db_commit(t);
}

int VBD_assert_attachable(struct task *t, struct VBD_assert_attachable *a)
{
	const struct VBD_row *vbd = db_get(t, VBD, a->self);
	if (!vbd)
		return -1;
	if (vbd->currently_attached)
		return fail(t, DEVICE_ALREADY_ATTACHED, a->self);
	return vbd->empty ? 0 : vbd_check_free(t, vbd);
}

int VBD_destroy(struct task *t, struct VBD_destroy *a)
{
	DB_SCOPE(t);
	struct VBD_row *vbd = db_get(t, VBD, a->self);
	if (!vbd)
		return -1;
	if (vbd->currently_attached)
		return fail(t, OPERATION_NOT_ALLOWED,
			    "the drive is attached; unplug it or shut the VM down first");
	struct VM_row *vm = db_seek(t, VM, vbd->VM);
	if (vm && vm->is_a_snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, "destroy");
	if (device_delete(t, &vbd->row) < 0)
		return -1;
	return db_commit(t);
}
