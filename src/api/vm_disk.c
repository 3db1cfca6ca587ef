// SPDX-License-Identifier: Apache-2.0
#include "api/vm_disk.h"

#include "api/call.h"
#include "api/storage.h"
#include "api/vdi.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* The VM owns it: the disk is deleted with the VM. */
static int record(struct task *t, const struct vm_disk *d, struct VDI_row *vdi)
{
	struct VBD_create drive = { .VM = d->vm,
				    .VDI = vdi->row.ref,
				    .userdevice = d->userdevice,
				    .mode = "RW",
				    .type = "Disk",
				    .unpluggable = true };
	map_set(t, &drive.other_config, "owner", "");
	DB_SCOPE(t);
	if (db_insert(t, &vdi->row) < 0 || VBD_create(t, &drive) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

static int run(struct task *t, void *arg)
{
	const struct vm_disk *d = arg;
	struct VDI_row *vdi = vdi_make(t, d->sr, d->size);
	if (!vdi)
		return -1;
	vdi->name_label = "Created by xe";
	if (record(t, d, vdi) < 0)
		return -1;
	storage_refresh(t, d->sr, (const char *[]){ NULL });
	return 0;
}

const struct call call_vm_add_disk = {
	.name = "VM.add_disk", .result = VOID, .role = role_vm_admin, .run = run
};
