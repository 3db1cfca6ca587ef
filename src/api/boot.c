// SPDX-License-Identifier: Apache-2.0
#include "api/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/cd.h"
#include "api/firmware.h"
#include "api/guests.h"
#include "api/network.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/suspend_image.h"
#include "api/vm.h"
#include "api/vtpm.h"
#include "base/io.h"
#include "base/task.h"
#include "db/db.h"
#include "memory/image.h"

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

/* platform:devices.  ahci: emulated devices that every guest knows. */
static const struct model_row {
	const char *name;
	enum vmm_model disk, nic;
} models[] = {
	{ "virtio", VMM_VIRTIO, VMM_VIRTIO },
	{ "ahci", VMM_SATA, VMM_E1000E },
};

static const struct model_row *find_model(const char *name)
{
	for (size_t i = 0; name && i < COUNT(models); i++)
		if (streq(models[i].name, name))
			return &models[i];
	return NULL;
}

/* A VM that has not the key yet may say it in device-model, which is XenServer's, and in which clients write what
 * they like.  NULL: the value is unknown. */
static const struct model_row *model_in(const struct VM_row *vm)
{
	const char *name = map_get(&vm->platform, "devices");
	if (name && *name)
		return find_model(name);
	const struct model_row *before = find_model(map_get(&vm->platform, "device-model"));
	return before ? before : &models[0];
}

static const struct model_row *model_of(struct task *t, const struct VM_row *vm)
{
	const struct model_row *m = model_in(vm);
	return m ? m
		 : fail_ptr(t, VALUE_NOT_SUPPORTED, "platform:devices",
			    map_get(&vm->platform, "devices"), "it is one of virtio, ahci");
}

bool boot_hot_plugs_disks(const struct VM_row *vm)
{
	const struct model_row *m = model_in(vm);
	return !m || m->disk != VMM_SATA;
}

static int add_layers(struct task *t, const struct VBD_row *vbd, struct vmm_disk *d)
{
	struct VDI_row *vdi = db_get(t, VDI, vbd->VDI);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	json_t *layers;
	if (!sr)
		return -1;
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	d->read_only = vbd->mode == vbd_mode_RO || vdi->is_a_snapshot || vdi->read_only;
	/* Never so by our own doing; a volume that others stand on must not change whatever happened. */
	if (!d->read_only && storage_has_layers(t, vdi->location))
		return fail(t, VDI_READONLY, vdi->row.ref);
	if (sr->layout->blockdev(t, sr, vdi->location, !d->read_only, &layers) < 0)
		return -1;
	d->serial = vdi->uuid;
	d->layers = layers;
	return 0;
}

int boot_disk(struct task *t, const struct VM_row *vm, const struct VBD_row *vbd,
	      struct vmm_disk *ret)
{
	if (vbd->type == vbd_type_CD)
		return cd_drive(t, vbd, 0, ret);
	const struct model_row *m = model_of(t, vm);
	if (!m)
		return -1;
	struct vmm_disk d = {
		.id = vbd_device_id(t, vbd->userdevice),
		.position = (unsigned)atoi(vbd->userdevice),
		.model = m->disk,
	};
	if (add_layers(t, vbd, &d) < 0)
		return -1;
	*ret = d;
	return 0;
}

static int describe_nic(struct task *t, const struct VM_row *vm, const struct VIF_row *vif,
			struct vmm_nic *ret)
{
	const struct model_row *m = model_of(t, vm);
	if (!m)
		return -1;
	*ret = (struct vmm_nic){
		.id = str(t, "nic-%s", vif->device),
		.position = (unsigned)atoi(vif->device),
		.mac = vif->MAC,
		.model = m->nic,
		.tap = -1,
	};
	return 0;
}

int boot_nic(struct task *t, const struct VM_row *vm, const struct VIF_row *vif,
	     struct vmm_nic *ret)
{
	return describe_nic(t, vm, vif, ret) < 0 ? -1 : network_tap(t, vm, vif, &ret->tap);
}

/* The same without a tap. */
static int look_at_nic(struct task *t, const struct VM_row *vm, const struct VIF_row *vif,
		       struct vmm_nic *ret)
{
	return describe_nic(t, vm, vif, ret) < 0 ? -1 : network_check(t, vif);
}

static int by_position(const void *a, const void *b)
{
	const struct vmm_disk *x = a, *y = b;
	return (int)x->position - (int)y->position;
}

/* ---- what a VM starts with ---- */

struct view {
	const struct VM_row *vm;      /* as it is to be started */
	const struct VM_row *devices; /* whose drives, interfaces, UEFI store and TPM it gets */
	bool attached;                /* only those that are; else all, as a start attaches them */
	bool look;                    /* nothing is made: no taps, no store of UEFI's variables */
};

static bool is_wanted(const struct view *v, const struct VBD_row *vbd)
{
	return v->attached ? vbd->currently_attached : vbd->type == vbd_type_CD || !vbd->empty;
}

static int add_disks(struct task *t, const struct view *v, struct vmm_config *c)
{
	struct vmm_disk *disks = NULL;
	DB_EACH (t, VBD, vbd, "VM", v->devices->row.ref) {
		if (!is_wanted(v, vbd))
			continue;
		disks = talloc_realloc(t, disks, struct vmm_disk, c->ndisks + 1);
		if (boot_disk(t, v->vm, vbd, &disks[c->ndisks]) < 0)
			return -1;
		c->ndisks++;
	}
	if (c->ndisks)
		qsort(disks, c->ndisks, sizeof *disks, by_position);
	c->disks = disks;
	return 0;
}

static int add_nics(struct task *t, const struct view *v, struct vmm_config *c)
{
	DB_EACH (t, VIF, vif, "VM", v->devices->row.ref) {
		if (v->attached && !vif->currently_attached)
			continue;
		c->nics = talloc_realloc(t, c->nics, struct vmm_nic, c->nnics + 1);
		struct vmm_nic *nic = &c->nics[c->nnics];
		if ((v->look ? look_at_nic : boot_nic)(t, v->vm, vif, nic) < 0)
			return -1;
		c->nnics++;
	}
	return 0;
}

static int add_firmware(struct task *t, const struct view *v, struct vmm_config *c)
{
	const char *store = v->devices->NVRAM_VDI;
	bool is_made = v->look && !v->attached && !db_seek(t, VDI, store);
	return is_made ? firmware_check(t, v->vm) : firmware_config(t, v->vm, store, &c->firmware);
}

/* HVM_boot_params:order has a letter for each kind: c disks, d CD drives, n network.  Within a kind the
 * position decides. */
static void set_boot_order(const struct VM_row *vm, struct vmm_config *c)
{
	const char *order = map_get(&vm->HVM_boot_params, "order");
	int next = 1;
	for (const char *p = order && *order ? order : "cd"; *p; p++) {
		for (size_t i = 0; i < c->ndisks; i++)
			if (c->disks[i].bootindex == 0 && *p == (c->disks[i].cd ? 'd' : 'c'))
				c->disks[i].bootindex = next++;
		for (size_t i = 0; i < c->nnics; i++)
			if (c->nics[i].bootindex == 0 && *p == 'n')
				c->nics[i].bootindex = next++;
	}
}

/* ---- the whole ---- */

static uint64_t round_up_mib(int64_t bytes)
{
	return ((uint64_t)bytes + (1 << 20) - 1) & ~(uint64_t)((1 << 20) - 1);
}

/* "<63 bits>:<63 bits>", as XenServer writes them, as the 128 bits that the guest sees. */
static const char *generation_uuid(struct task *t, const char *id)
{
	struct list halves = list_split(t, id, ':');
	int64_t v[2];
	if (halves.n != 2 || !text_int(halves.v[0], &v[0]) || !text_int(halves.v[1], &v[1]))
		return NULL;
	return str(t, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(v[0] >> 32),
		   (unsigned)(v[0] >> 16 & 0xffff), (unsigned)(v[0] & 0xffff),
		   (unsigned)(v[1] >> 48 & 0xffff), (unsigned long long)v[1] & 0xffffffffffff);
}

static struct vmm_config *empty_config(struct task *t, const struct VM_row *vm)
{
	struct vmm_config *c = talloc_zero(t, struct vmm_config);
	c->kernel = c->ramdisk = c->image = -1;
	c->uuid = vm->uuid;
	c->name = vm->name_label;
	c->dir = guest_path(t, vm->uuid);
	c->memory = round_up_mib(vm->memory_static_max);
	c->vcpus = (unsigned)vm->VCPUs_at_startup;
	c->accel = settings.accel;
	c->uid = settings.qemu_uid + (settings.qemu_uids > 1 ? (uid_t)vm->domid : 0);
	c->gid = settings.qemu_gid + (settings.qemu_uids > 1 ? (gid_t)vm->domid : 0);
	c->common = settings.qemu_gid;
	c->generation_id = generation_uuid(t, vm->generation_id);
	c->ends_on_reboot = vm->actions_after_reboot == on_normal_exit_destroy;
	c->stands_still_on_crash = vm->actions_after_crash == on_crash_behaviour_preserve;
	return c;
}

/* image: of memory that it comes back from, NULL: it boots. */
static struct vmm_config *make_config(struct task *t, const struct view *v,
				      const struct image *image)
{
	struct vmm_config *c = empty_config(t, v->vm);
	c->tpm = vtpm_remembers(t, v->devices);
	if (image) {
		c->paused = true;
		c->image = image->fd;
		c->image_at = IMAGE_STREAM_AT;
		c->image_used = image->used;
		c->machine = image->machine;
		c->cpu = suspend_image_cpu(image);
	}
	if (add_disks(t, v, c) < 0 || add_nics(t, v, c) < 0 || add_kernel(t, v->vm, c) < 0 ||
	    add_firmware(t, v, c) < 0 || settings.vmm->check(t, c) < 0) {
		boot_done(c);
		return NULL;
	}
	set_boot_order(v->vm, c);
	return c;
}

struct vmm_config *boot_config(struct task *t, const struct VM_row *vm, const struct image *image)
{
	struct view v = { .vm = vm, .devices = vm, .attached = true };
	return make_config(t, &v, image);
}

int boot_check(struct task *t, const struct VM_row *vm, const struct VM_row *devices,
	       const struct image *image)
{
	struct view v = { .vm = vm, .devices = devices, .attached = image != NULL, .look = true };
	struct vmm_config *c = make_config(t, &v, image);
	if (!c)
		return -1;
	boot_done(c);
	return 0;
}

void boot_done(struct vmm_config *c)
{
	for (size_t i = 0; i < c->nnics; i++)
		fd_close(&c->nics[i].tap);
	fd_close(&c->kernel);
	fd_close(&c->ramdisk);
}
