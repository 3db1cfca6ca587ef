// SPDX-License-Identifier: Apache-2.0
#include "api/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/guests.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/vm.h"
#include "base/io.h"
#include "base/task.h"
#include "db/db.h"

/* ---- kernel and ramdisk ---- */

static int refuse(struct task *t, const struct VM_row *vm, const char *path, const char *why)
{
	return fail(t, BOOTLOADER_FAILED, vm->row.ref, str(t, "%s: %s", path, why));
}

/* The kernel resolves the name itself and never leaves the folder, by .. or by symbolic link. */
static int open_beneath(const char *dir, const char *rest)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	FD_SCOPE int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return at < 0 ? -1 : (int)syscall(SYS_openat2, at, rest, &how, sizeof how);
}

static int open_boot_file(struct task *t, const struct VM_row *vm, const char *path, int *ret)
{
	struct stat st;
	FD_SCOPE int fd = -1;
	bool inside = false;
	for (size_t i = 0; i < settings.boot_dirs.n && fd < 0; i++) {
		const char *dir = str(t, "%s/", settings.boot_dirs.v[i]);
		if (!starts_with(path, dir))
			continue;
		inside = true;
		fd = open_beneath(settings.boot_dirs.v[i], path + strlen(dir));
	}
	if (!inside || (fd < 0 && errno == EXDEV))
		return refuse(t, vm, path,
			      str(t, "a kernel or ramdisk must lie in %s",
				  list_join(t, &settings.boot_dirs, " or ")));
	if (fd < 0)
		return refuse(t, vm, path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return refuse(t, vm, path, "not a regular file");
	*ret = fd;
	fd = -1;
	return 0;
}

static int add_kernel(struct task *t, const struct VM_row *vm, struct vmm_config *c)
{
	if (*vm->HVM_boot_policy)
		return 0;
	if (!*vm->PV_kernel)
		return refuse(t, vm, "PV-kernel",
			      "not set; set it, or HVM-boot-policy=\"BIOS order\" to boot from a "
			      "disk");
	if (open_boot_file(t, vm, vm->PV_kernel, &c->kernel) < 0)
		return -1;
	if (*vm->PV_ramdisk && open_boot_file(t, vm, vm->PV_ramdisk, &c->ramdisk) < 0)
		return -1;
	c->cmdline = vm->PV_args;
	return 0;
}

/* ---- devices ---- */

static int by_position(const void *a, const void *b)
{
	const struct VBD_row *x = *(struct VBD_row *const *)a, *y = *(struct VBD_row *const *)b;
	return atoi(x->userdevice) - atoi(y->userdevice);
}

static int add_disk(struct task *t, const struct VBD_row *vbd, int bootindex, struct vmm_disk *ret)
{
	struct VDI_row *vdi = db_get(t, VDI, vbd->VDI);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	json_t *layers;
	if (!sr)
		return -1;
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	ret->read_only = vbd->mode == vbd_mode_RO || vdi->is_a_snapshot || vdi->read_only;
	/* Never so by our own doing; a volume that others stand on must not change whatever happened. */
	if (!ret->read_only && storage_has_layers(t, vdi->location))
		return fail(t, VDI_READONLY, vdi->row.ref);
	if (sr->layout->blockdev(t, sr, vdi->location, !ret->read_only, &layers) < 0)
		return -1;
	ret->id = vbd_device_id(t, vbd->userdevice);
	ret->position = (unsigned)atoi(vbd->userdevice);
	ret->serial = vdi->uuid;
	ret->layers = layers;
	ret->bootindex = bootindex;
	return 0;
}

static int add_disks(struct task *t, const struct VM_row *vm, struct vmm_config *c)
{
	struct VBD_row **vbds = (struct VBD_row **)db_find(t, &class_VBD, "VM", vm->row.ref);
	size_t n = 0;
	while (vbds[n])
		n++;
	struct vmm_disk *disks = talloc_zero_array(t, struct vmm_disk, n + 1);
	qsort(vbds, n, sizeof *vbds, by_position);
	for (size_t i = 0; i < n; i++) {
		if (vbds[i]->type != vbd_type_Disk || vbds[i]->empty)
			continue;
		if (add_disk(t, vbds[i], (int)i + 1, &disks[c->ndisks]) < 0)
			return -1;
		c->ndisks++;
	}
	c->disks = disks;
	return 0;
}

static void add_nics(struct task *t, const struct VM_row *vm, struct vmm_config *c)
{
	struct vmm_nic *nics = NULL;
	DB_EACH (t, VIF, vif, "VM", vm->row.ref) {
		nics = talloc_realloc(t, nics, struct vmm_nic, c->nnics + 1);
		nics[c->nnics++] = (struct vmm_nic){
			.id = str(t, "nic-%s", vif->device),
			.position = (unsigned)atoi(vif->device),
			.mac = vif->MAC,
			.tap = -1,
		};
	}
	c->nics = nics;
}

/* ---- the whole ---- */

static uint64_t round_up_mib(int64_t bytes)
{
	return ((uint64_t)bytes + (1 << 20) - 1) & ~(uint64_t)((1 << 20) - 1);
}

struct vmm_config *boot_config(struct task *t, const struct VM_row *vm)
{
	struct vmm_config *c = talloc_zero(t, struct vmm_config);
	c->kernel = c->ramdisk = c->tpm = -1;
	c->uuid = vm->uuid;
	c->name = vm->name_label;
	c->dir = guest_dir(t, vm->uuid);
	c->memory = round_up_mib(vm->memory_static_max);
	c->vcpus = (unsigned)vm->VCPUs_at_startup;
	c->accel = settings.accel;
	c->uid = settings.qemu_uid;
	c->gid = c->common = settings.qemu_gid;
	if (!c->dir || add_disks(t, vm, c) < 0 || add_kernel(t, vm, c) < 0) {
		boot_done(c);
		return NULL;
	}
	add_nics(t, vm, c);
	return c;
}

void boot_done(struct vmm_config *c)
{
	fd_close(&c->kernel);
	fd_close(&c->ramdisk);
}
