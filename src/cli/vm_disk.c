// SPDX-License-Identifier: Apache-2.0
/* vm_disk.c -- a VM's disks by their position, as XenServer's short commands have it. */
#include "cli/cli.h"

#include "api/vm_disk.h"

static command_fn vm_disk_add, vm_disk_remove;

const struct command commands_vm_disk[] = {
	{ "vm-disk-add", vm_disk_add, VM_SELECTORS, "disk-size,device", "sr-uuid,sr-name-label",
	  "Gives a VM a new, empty disk of its own at a position (0, 1, ... or autodetect), in the "
	  "SR "
	  "that is named, or the pool's default one." },
	{ "vm-disk-remove", vm_disk_remove, VM_SELECTORS, "device", "",
	  "Deletes the disk at a position of a VM, with its drive." },
	{ 0 },
};

static const char *wanted_sr(struct cli *c)
{
	struct SR_row *sr;
	if (select_sr(c, &sr) < 0)
		return NULL;
	const struct pool_row *pool = *(struct pool_row **)db_find(c->t, &class_pool, NULL, NULL);
	if (!sr)
		sr = db_seek(c->t, SR, pool->default_SR);
	return sr ? sr->row.ref : fail_ptr(c->t, DEFAULT_SR_NOT_FOUND, pool->default_SR);
}

static int add_one(struct cli *c, struct VM_row *vm)
{
	struct vm_disk a = { .vm = vm->row.ref,
			     .sr = wanted_sr(c),
			     .userdevice = cli_arg(c, "device") };
	return !a.sr || cli_size(c, "disk-size", &a.size) < 0 ? -1 : cli_call(c, vm_add_disk, &a);
}

static int vm_disk_add(struct cli *c)
{
	return for_vms(c, add_one);
}

static int remove_one(struct cli *c, struct VM_row *vm)
{
	const char *device = cli_arg(c, "device");
	DB_EACH (c->t, VBD, vbd, "VM", vm->row.ref) {
		if (!streq(vbd->userdevice, device))
			continue;
		if (vbd->type != vbd_type_Disk || vbd->empty)
			return cli_call(c, VBD_destroy,
					(&(struct VBD_destroy){ .self = vbd->row.ref }));
		return cli_call(c, VDI_destroy, (&(struct VDI_destroy){ .self = vbd->VDI }));
	}
	return cli_fail(c, "%s has no drive at position %s", vm->name_label, device);
}

static int vm_disk_remove(struct cli *c)
{
	return for_vms(c, remove_one);
}
