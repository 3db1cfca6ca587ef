// SPDX-License-Identifier: Apache-2.0
#include "api/vdi_record.h"

#include "api/plan.h"
#include "base/task.h"
#include "db/db.h"

/* A copy of the row, of a disk that nobody is busy with. */
static struct VDI_row *copy_of(struct task *t, const struct VDI_row *vdi)
{
	struct VDI_row *copy = (struct VDI_row *)model_copy(t, &vdi->row);
	copy->current_operations = (struct map){ 0 };
	return copy;
}

static void set_own(struct VDI_row *vdi)
{
	vdi->is_a_snapshot = false;
	vdi->snapshot_of = NULL_REF;
	vdi->snapshot_time = TIME_NEVER;
	map_remove(&vdi->sm_config, "method");
}

int vdi_record_snapshot(struct task *t, struct plan_disk *d)
{
	struct VDI_row *vdi = db_get(t, VDI, d->vdi->row.ref);
	if (!vdi)
		return -1;
	struct VDI_row *snap = copy_of(t, vdi);
	snap->is_a_snapshot = true;
	snap->snapshot_of = vdi->row.ref;
	snap->snapshot_time = time_now(snap);
	map_set(snap, &snap->sm_config, "method", "overlay");
	snap->location = d->copy ? d->copy : d->vdi->location;
	snap->parent_location = d->copy ? d->vdi->location : vdi->parent_location;
	d->new_vdi = snap->row.ref;
	return db_insert(t, &snap->row);
}

int vdi_record_clone(struct task *t, struct plan_disk *d)
{
	struct VDI_row *vdi = db_get(t, VDI, d->vdi->row.ref);
	if (!vdi)
		return -1;
	struct VDI_row *clone = copy_of(t, vdi);
	set_own(clone);
	clone->location = d->copy;
	clone->parent_location = d->vdi->location;
	clone->physical_utilisation = 0;
	d->new_vdi = clone->row.ref;
	if (d->overlay && storage_hide(t, vdi, d->vdi->location, vdi->parent_location) < 0)
		return -1;
	return db_insert(t, &clone->row);
}

int vdi_record_copy(struct task *t, const char *from, const struct VDI_row *made, const char **ret)
{
	struct VDI_row *vdi = db_get(t, VDI, from);
	if (!vdi)
		return -1;
	struct VDI_row *copy = copy_of(t, vdi);
	set_own(copy);
	copy->SR = made->SR;
	copy->location = made->location;
	copy->parent_location = "";
	copy->virtual_size = made->virtual_size;
	copy->physical_utilisation = made->physical_utilisation;
	copy->sm_config = made->sm_config;
	copy->raw = made->raw;
	*ret = copy->row.ref;
	return db_insert(t, &copy->row);
}
