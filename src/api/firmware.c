// SPDX-License-Identifier: Apache-2.0
#include "api/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/call.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/efivars.h"
#include "api/jobs.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/vdi.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* The key of VM.NVRAM. */
#define VARIABLES "EFI-variables"

enum {
	IMAGE_LIMIT = 4 << 20,
};

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
bool firmware_is_uefi(const struct VM_row *vm)
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

/* The flash, in memory. */
struct image {
	uint8_t *at;
	size_t n;
};

static int load(struct task *t, int fd, const char *what, struct image *ret)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, what);
	if (st.st_size > IMAGE_LIMIT)
		return fail(t, INTERNAL_ERROR, str(t, "%s: too large for UEFI variables", what));
	size_t n = (size_t)st.st_size;
	uint8_t *bytes = talloc_array(t, uint8_t, n);
	if (pread(fd, bytes, n, 0) != (ssize_t)n)
		return fail(t, INTERNAL_ERROR, str(t, "%s: cannot be read whole", what));
	*ret = (struct image){ bytes, n };
	return 0;
}

/* The firmware's template, with the variables that a client gave the VM. */
static int make_image(struct task *t, const struct VM_row *vm, const char *template,
		      struct image *ret)
{
	struct efivars given;
	const char *text = map_get(&vm->NVRAM, VARIABLES);
	FD_SCOPE int fd = open(template, O_RDONLY | O_CLOEXEC);
	if (load(t, fd, template, ret) < 0)
		return -1;
	if (!text)
		return 0;
	return efivars_read_text(t, text, &given) < 0 ? -1
						      : efivars_put(t, ret->at, ret->n, &given);
}

static int fill(struct task *t, const struct VDI_row *store, const struct image *image)
{
	const struct sr *sr = storage_sr(t, store->SR);
	FD_SCOPE int fd = memfd_create("nvram", MFD_CLOEXEC);
	if (!sr)
		return -1;
	if (fd < 0 || write(fd, image->at, image->n) != (ssize_t)image->n ||
	    lseek(fd, 0, SEEK_SET) < 0)
		return task_fail_errno(t, errno, "memfd");
	return sr_import(t, sr, store->location, fd, image->n);
}

/* What clients see of the store, NULL when it cannot be told. */
static const char *text_of(struct task *t, const struct image *image)
{
	struct efivars all;
	if (efivars_read_image(t, image->at, image->n, &all) < 0)
		return NULL;
	return efivars_write_text(t, &all);
}

static int record(struct task *t, const char *vm_ref, struct VDI_row *vdi, const char *variables)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, vm_ref);
	if (!vm)
		return -1;
	vdi->name_label = "UEFI variables";
	vdi->name_description = "Belongs to its VM, and goes with it";
	vdi->type = vdi_type_system;
	map_set(vdi, &vdi->other_config, "nvram-of", vm->uuid);
	vm->NVRAM_VDI = vdi->row.ref;
	if (variables)
		map_set(vm, &vm->NVRAM, VARIABLES, variables);
	if (db_insert(t, &vdi->row) < 0 || db_put(t, &vm->row) < 0)
		return -1;
	return db_commit(t);
}

int firmware_ensure(struct task *t, const struct VM_row *vm)
{
	if (!firmware_is_uefi(vm) || db_seek(t, VDI, vm->NVRAM_VDI))
		return 0;
	const struct firmware_row *f = wanted(t, vm);
	struct image image;
	if (!f || make_image(t, vm, f->vars, &image) < 0)
		return -1;
	const char *variables = text_of(t, &image);
	task_forgive(t); /* a template that only its firmware understands does to start with */
	struct VDI_row *vdi = vdi_make(t, sr_for(t, vm), (int64_t)image.n);
	if (!vdi || fill(t, vdi, &image) < 0)
		return -1;
	return record(t, vm->row.ref, vdi, variables);
}

int firmware_release(struct task *t, const struct VM_row *vm)
{
	struct VDI_row *vdi = db_seek(t, VDI, vm->NVRAM_VDI);
	if (!vdi)
		return 0;
	if (devices_delete(t, &class_VBD, "VDI", vdi->row.ref) < 0 || db_delete(t, &vdi->row) < 0)
		return -1;
	return storage_release(t, vdi, vdi->location, vdi->parent_location);
}

/* ---- what clients see ---- */

/* Into memory; no lock is held. */
static int read_store(struct task *t, const struct VDI_row *vdi, struct image *ret)
{
	const struct sr *sr = storage_sr(t, vdi->SR);
	FD_SCOPE int fd = memfd_create("nvram", MFD_CLOEXEC);
	if (!sr)
		return -1;
	if (fd < 0)
		return task_fail_errno(t, errno, "memfd");
	if (vdi->virtual_size > IMAGE_LIMIT)
		return fail(t, INTERNAL_ERROR, "the store of UEFI variables is too large");
	void *hold = talloc_new(t);
	bool held = coalesce_hold(t, hold, vdi->row.ref, true) == 0;
	int result = held ? sr_export(t, sr, vdi->location, fd) : -1;
	talloc_free(hold);
	return result < 0 ? -1 : load(t, fd, vdi->location, ret);
}

/* A store that was switched while it was read is no longer the VM's. */
static int record_variables(struct task *t, const char *ref, const struct VDI_row *store,
			    const char *text)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	const struct VDI_row *now = vm ? db_seek(t, VDI, vm->NVRAM_VDI) : NULL;
	if (!vm)
		return -1;
	if (!now || !streq(now->location, store->location) ||
	    vm->power_state != vm_power_state_Halted)
		return 0;
	map_set(vm, &vm->NVRAM, VARIABLES, text);
	vm->NVRAM_stale = false;
	return db_put(t, &vm->row) < 0 ? -1 : db_commit(t);
}

/* The VM is marked: nobody starts it. */
static int note(struct task *t, const struct VM_row *vm)
{
	struct image image;
	const struct VDI_row *store = db_seek(t, VDI, vm->NVRAM_VDI);
	if (!store || !vm->NVRAM_stale)
		return 0;
	const char *text = read_store(t, store, &image) < 0 ? NULL : text_of(t, &image);
	return text ? record_variables(t, vm->row.ref, store, text) : -1;
}

static bool is_stale(struct task *t, const char *ref)
{
	const struct VM_row *vm = db_seek(t, VM, ref);
	return vm && vm->NVRAM_stale && vm->power_state == vm_power_state_Halted &&
	       db_seek(t, VDI, vm->NVRAM_VDI);
}

void firmware_note(struct task *t, const char *ref)
{
	int64_t deadline = t->deadline_ms;
	if (!is_stale(t, ref))
		return;
	t->deadline_ms = clock_ms() + delay_ms(DELAY_NVRAM_NOTE);
	struct VM_row *vm = operation_begin(t, ref, vm_operations_changing_NVRAM);
	bool noted = vm && note(t, vm) == 0;
	t->deadline_ms = deadline;
	if (!noted && t->code != VM_BAD_POWER_STATE) /* it runs again: its next end will do */
		log_line(t, "UEFI variables not read vm=%s error=\"%s\"", ref, task_error(t));
	task_forgive(t);
	if (vm && operation_end(t) < 0) {
		task_forgive(t);
		undo_run(t);
	}
}

static int run_note(struct task *t, void *arg)
{
	firmware_note(t, arg);
	return 0;
}

static const struct call call_note = { .name = "VM.note_NVRAM", .result = VOID, .run = run_note };

static int note_job(struct task *t, const char *ref)
{
	return is_stale(t, ref) ? api_call(t, &call_note, (void *)(uintptr_t)ref) : 0;
}

void firmware_note_soon(struct task *t, const char *ref)
{
	if (is_stale(t, ref))
		jobs_start("nvram", note_job, ref, 0);
}

/* One after the other. */
static int note_all(struct task *t, const char *unused)
{
	(void)unused;
	DB_ALL (t, VM, vm)
		if (!vm->is_a_template && !vm->is_a_snapshot && !t->cancelled &&
		    note_job(t, vm->row.ref) < 0)
			return -1;
	return 0;
}

void firmware_note_all(void)
{
	jobs_start("nvram", note_all, "", 0);
}

int firmware_check_variables(struct task *t, struct VM_row *vm)
{
	struct efivars given;
	const struct VM_row *before = db_get(t, VM, vm->row.ref);
	const char *text = map_get(&vm->NVRAM, VARIABLES);
	const char *old = before ? map_get(&before->NVRAM, VARIABLES) : NULL;
	bool has_store = db_seek(t, VDI, vm->NVRAM_VDI) != NULL;
	if (!before || (text && efivars_read_text(t, text, &given) < 0))
		return -1;
	if (!has_store && !firmware_is_uefi(vm))
		return 0;
	if (operation_check(t, vm, vm_operations_changing_NVRAM) < 0)
		return -1;
	if (text && old && streq(text, old) && !vm->NVRAM_stale)
		return 0;
	if (firmware_release(t, vm) < 0)
		return -1;
	vm->NVRAM_VDI = NULL_REF;
	vm->NVRAM_stale = false;
	return 0;
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

int firmware_config(struct task *t, const struct VM_row *vm, const char *store,
		    struct vmm_firmware *ret)
{
	json_t *vars;
	*ret = (struct vmm_firmware){ 0 };
	if (!firmware_is_uefi(vm))
		return 0;
	const struct firmware_row *f = wanted(t, vm);
	struct VDI_row *vdi = f ? db_get(t, VDI, store) : NULL;
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	if (!sr || sr->layout->blockdev(t, sr, vdi->location, !vdi->is_a_snapshot, &vars) < 0)
		return -1;
	*ret = (struct vmm_firmware){ code_layers(t, f->code), vars, f->secure,
				      vdi->is_a_snapshot };
	return ret->code ? 0 : -1;
}

int firmware_check(struct task *t, const struct VM_row *vm)
{
	return !firmware_is_uefi(vm) || wanted(t, vm) ? 0 : -1;
}
