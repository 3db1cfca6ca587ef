// SPDX-License-Identifier: Apache-2.0
#include "api/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/call.h"
#include "api/storage.h"
#include "api/undo.h"
#include "base/io.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"

/* The files of Debian's package ovmf.  Each program has its own template of the store; that for secure
 * boot holds the keys, and is no use to a program that does not guard them. */
#define FOLDER "/usr/share/OVMF/"
static const struct firmware_row {
	bool secure;
	const char *code, *vars;
} firmwares[] = {
	{ false, FOLDER "OVMF_CODE_4M.fd", FOLDER "OVMF_VARS_4M.fd" },
	{ true, FOLDER "OVMF_CODE_4M.secboot.fd", FOLDER "OVMF_VARS_4M.ms.fd" },
};

/* platform:secureboot as XenServer has it: "auto" takes what there is. */
static const struct firmware_row *wanted(struct task *t, const struct VM_row *vm)
{
	const char *asked = map_get(&vm->platform, "secureboot");
	bool secure = asked && !streq(asked, "false");
	if (asked && streq(asked, "auto") && !file_exists(firmwares[1].code))
		secure = false;
	const struct firmware_row *f = &firmwares[secure];
	if (file_exists(f->code) && file_exists(f->vars))
		return f;
	return fail_ptr(t, VALUE_NOT_SUPPORTED, "HVM_boot_params:firmware", "uefi",
			str(t, "%s is not there; install the package ovmf", f->code));
}

/* Without a boot policy the kernel is booted directly, and there is no firmware to choose. */
static bool is_uefi(const struct VM_row *vm)
{
	const char *asked = map_get(&vm->HVM_boot_params, "firmware");
	return *vm->HVM_boot_policy && asked && streq(asked, "uefi");
}

/* ---- the store ---- */

static const char *sr_for(struct task *t, const struct VM_row *vm)
{
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref) {
		struct VDI_row *vdi = vbd->type == vbd_type_Disk ? db_seek(t, VDI, vbd->VDI) : NULL;
		if (vdi)
			return vdi->SR;
	}
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	return pool->default_SR;
}

static int fill(struct task *t, const struct sr *sr, const char *volume, const char *template)
{
	struct stat st;
	FD_SCOPE int fd = open(template, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, template);
	if (sr->layout->create(t, sr, volume, "", (uint64_t)st.st_size) < 0)
		return -1;
	return sr_import(t, sr, volume, fd, (uint64_t)st.st_size);
}

static int record(struct task *t, const char *vm_ref, const char *sr, const struct volume *v)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, vm_ref);
	if (!vm)
		return -1;
	struct VDI_row *vdi = row_new(t, VDI);
	vdi->name_label = "UEFI variables";
	vdi->name_description = "Belongs to its VM, and goes with it";
	vdi->SR = sr;
	vdi->location = v->id;
	vdi->virtual_size = (int64_t)v->virtual_size;
	vdi->physical_utilisation = (int64_t)v->physical_size;
	vdi->type = vdi_type_system;
	vdi->managed = true;
	map_set(vdi, &vdi->sm_config, "vdi_type", "qcow2");
	map_set(vdi, &vdi->other_config, "nvram-of", vm->uuid);
	vm->NVRAM_VDI = vdi->row.ref;
	if (db_insert(t, &vdi->row) < 0 || db_put(t, &vm->row) < 0)
		return -1;
	return db_commit(t);
}

int firmware_ensure(struct task *t, const struct VM_row *vm)
{
	if (!is_uefi(vm) || db_seek(t, VDI, vm->NVRAM_VDI))
		return 0;
	const struct firmware_row *f = wanted(t, vm);
	const char *sr_ref = sr_for(t, vm), *id = volume_id_new(t);
	const struct sr *sr = f ? storage_sr(t, sr_ref) : NULL;
	struct volume v;
	if (!sr || undo_vol_delete(t, sr_ref, id, "") < 0 || fill(t, sr, id, f->vars) < 0 ||
	    sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	return record(t, vm->row.ref, sr_ref, &v);
}

int firmware_release(struct task *t, const struct VM_row *vm)
{
	struct VDI_row *vdi = db_seek(t, VDI, vm->NVRAM_VDI);
	if (!vdi)
		return 0;
	if (db_delete(t, &vdi->row) < 0)
		return -1;
	return storage_release(t, vdi, vdi->location, vdi->parent_location);
}

/* ---- what the VMM is told ---- */

/* Packages have links among these files; the VMM follows none. */
static json_t *code_layers(struct task *t, const char *name)
{
	char file[PATH_MAX];
	if (!realpath(name, file)) {
		task_fail_errno(t, errno, name);
		return NULL;
	}
	return json_own(t, json_pack("[{s:s, s:s, s:b, s:{s:s, s:s}}]", "driver", "raw",
				     "node-name", "firmware", "read-only", true, "file", "driver",
				     "file", "filename", file));
}

int firmware_config(struct task *t, const struct VM_row *vm, struct vmm_firmware *ret)
{
	json_t *vars;
	*ret = (struct vmm_firmware){ 0 };
	if (!is_uefi(vm))
		return 0;
	const struct firmware_row *f = wanted(t, vm);
	struct VDI_row *vdi = f ? db_get(t, VDI, vm->NVRAM_VDI) : NULL;
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	if (!sr || sr->layout->blockdev(t, sr, vdi->location, true, &vars) < 0)
		return -1;
	*ret = (struct vmm_firmware){ code_layers(t, f->code), vars, f->secure };
	return ret->code ? 0 : -1;
}
