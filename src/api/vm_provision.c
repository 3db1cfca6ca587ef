// SPDX-License-Identifier: Apache-2.0
/* vm_provision.c -- a VM made of a template: it gets the disks that the template asks for.
 *
 * The volumes are made first, each behind a row of the journal; one transaction then stores their
 * records, gives the VM its drives, and makes it a VM. */
#include "api/call.h"
#include "api/device.h"
#include "api/operation.h"
#include "api/provision.h"
#include "api/storage.h"
#include "api/vdi.h"
#include "api/vm.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* What becomes of each disk of the template. */
struct made {
	struct VDI_row *vdi;
	struct VBD_row *vbd;
};

/* ---- where ---- */

static const char *default_sr(struct task *t)
{
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	struct SR_row *sr = db_seek(t, SR, pool->default_SR);
	return sr ? sr->row.ref : fail_ptr(t, DEFAULT_SR_NOT_FOUND, pool->default_SR);
}

static const char *find_sr(struct task *t, const char *uuid)
{
	if (!*uuid)
		return default_sr(t);
	struct SR_row *sr = db_by_uuid(t, SR, uuid);
	return sr ? sr->row.ref : NULL;
}

/* ---- making ---- */

static struct VBD_row *new_drive(struct task *t, const struct VM_row *vm,
				 const struct provision_disk *d)
{
	struct VBD_row *vbd = row_new(t, VBD);
	vbd->VM = vm->row.ref;
	vbd->type = vbd_type_Disk;
	vbd->mode = vbd_mode_RW;
	vbd->userdevice = d->device;
	vbd->bootable = d->bootable;
	vbd->unpluggable = !streq(d->type, "system");
	map_set(vbd, &vbd->other_config, "owner", "");
	return vbd;
}

static struct VDI_row *new_disk(struct task *t, const struct provision_disk *d)
{
	const char *sr = find_sr(t, d->sr);
	struct VDI_row *vdi = sr ? vdi_make(t, sr, d->size) : NULL;
	if (!vdi)
		return NULL;
	vdi->name_label = d->device;
	vdi->name_description = "Created by template provisioner";
	vdi->type = (enum vdi_type)enum_value("vdi_type", d->type);
	return vdi;
}

/* Whatever can be seen to be wrong is, before the first volume. */
static int check(struct task *t, const struct provision *p, struct made *made)
{
	for (size_t i = 0; i < p->n; i++)
		if (!find_sr(t, p->v[i].sr) || vbd_check_device(t, made[i].vbd) < 0)
			return -1;
	return 0;
}

static int make(struct task *t, const struct VM_row *vm, const struct provision *p,
		struct made *made)
{
	for (size_t i = 0; i < p->n; i++)
		made[i].vbd = new_drive(t, vm, &p->v[i]);
	if (check(t, p, made) < 0)
		return -1;
	for (size_t i = 0; i < p->n; i++) {
		if (task_check(t) < 0 || !(made[i].vdi = new_disk(t, &p->v[i])))
			return -1;
		made[i].vbd->VDI = made[i].vdi->row.ref;
		task_progress(t, (double)(i + 1) / (double)p->n);
	}
	return 0;
}

/* ---- recording ---- */

/* XenServer would run the script that `postinstall` names on the host: nobody's VM may do that here. */
static void drop_wishes(struct task *t, struct VM_row *vm)
{
	const char *script = map_get(&vm->other_config, "postinstall");
	if (script)
		log_line(t, "postinstall script not run vm=%s script=\"%s\"", vm->uuid, script);
	map_remove(&vm->other_config, "disks");
	map_remove(&vm->other_config, "postinstall");
}

static int record(struct task *t, const char *ref, const struct made *made, size_t n)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (db_insert(t, &made[i].vdi->row) < 0 || vbd_check_device(t, made[i].vbd) < 0 ||
		    device_insert(t, &made[i].vbd->row) < 0)
			return -1;
	vm->is_a_template = false;
	drop_wishes(t, vm);
	if (vm_set_install_time(t, vm) < 0 || db_put(t, &vm->row) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

int VM_provision(struct task *t, struct VM_provision *a)
{
	struct provision p = { 0 };
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_provision);
	const char *disks = vm ? map_get(&vm->other_config, "disks") : NULL;
	if (!vm || (disks && provision_read(t, disks, &p) < 0))
		return -1;
	struct made *made = talloc_zero_array(t, struct made, p.n + 1);
	if (make(t, vm, &p, made) < 0 || record(t, a->vm, made, p.n) < 0)
		return -1;
	for (size_t i = 0; i < p.n; i++)
		storage_refresh(t, made[i].vdi->SR, (const char *[]){ NULL });
	log_line(t, "vm provisioned vm=%s disks=%zu", vm->uuid, p.n);
	return 0;
}
