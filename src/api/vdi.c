// SPDX-License-Identifier: Apache-2.0
#include "api/vdi.h"

#include "api/call.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/need.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/takes.h"
#include "api/undo.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* ---- create ---- */

static int create_volume(struct task *t, const struct sr *sr, const char *sr_ref, const char *id,
			 uint64_t size, bool raw)
{
	if (!raw)
		return sr->layout->create(t, sr, id, "", size);
	if (!sr->layout->create_raw)
		return fail(t, SR_OPERATION_NOT_SUPPORTED, sr_ref);
	return sr->layout->create_raw(t, sr, id, size);
}

void vdi_set_format(struct VDI_row *vdi, bool raw)
{
	vdi->raw = raw;
	if (raw)
		map_set(vdi, &vdi->sm_config, "type", "raw");
	map_set(vdi, &vdi->sm_config, "vdi_type", raw ? "raw" : "qcow2");
}

static struct VDI_row *make(struct task *t, const char *sr_ref, int64_t size, bool raw)
{
	const struct sr *sr = storage_writable_sr(t, sr_ref);
	const char *id = volume_id_new(t);
	struct volume v;
	if (!sr)
		return NULL;
	if (size <= 0)
		return fail_ptr(t, SR_BACKEND_FAILURE_79, "",
				str(t, "VDI Invalid size [opterr=%lld bytes]", (long long)size),
				"");
	if (sr_check_place(t, sr) < 0 || undo_vol_delete(t, sr_ref, id, "") < 0 ||
	    create_volume(t, sr, sr_ref, id, (uint64_t)size, raw) < 0 ||
	    sr->layout->stat(t, sr, id, &v) < 0)
		return NULL;

	struct VDI_row *vdi = row_new(t, VDI);
	vdi->SR = sr_ref;
	vdi->location = id;
	vdi->virtual_size = (int64_t)v.virtual_size;
	vdi->physical_utilisation = (int64_t)v.physical_size;
	vdi->managed = true;
	vdi_set_format(vdi, raw);
	return vdi;
}

struct VDI_row *vdi_make(struct task *t, const char *sr_ref, int64_t size)
{
	return make(t, sr_ref, size, false);
}

int VDI_create(struct task *t, struct VDI_create *a)
{
	int type = enum_value("vdi_type", a->type);
	if (type < 0)
		return fail(t, INVALID_VALUE, "type", a->type);
	if (takes_check_map(t, &class_VDI, "sm_config", &a->sm_config) < 0 ||
	    takes_check_map(t, &class_VDI, "other_config", &a->other_config) < 0)
		return -1;
	const char *kind = map_get(&a->sm_config, "type");
	bool raw = kind && streq(kind, "raw");
	struct VDI_row *vdi = make(t, a->SR, a->virtual_size, raw);
	if (!vdi)
		return -1;
	vdi->name_label = a->name_label;
	vdi->name_description = a->name_description;
	vdi->type = (enum vdi_type)type;
	vdi->sharable = a->sharable;
	vdi->other_config = a->other_config;
	vdi->sm_config = a->sm_config;
	map_remove(&vdi->sm_config, "vhd-parent"); /* of the disk whose record this was made from */
	vdi_set_format(vdi, raw);
	a->result = vdi->row.ref;
	{
		DB_SCOPE(t);
		if (db_insert(t, &vdi->row) < 0 || journal_drop(t) < 0 || db_commit(t) < 0)
			return -1;
	}
	storage_refresh(t, a->SR, (const char *[]){ a->result, NULL });
	return 0;
}

/* ---- destroy ---- */

int vdi_delete(struct task *t, const char *ref)
{
	struct VDI_row *vdi = db_get(t, VDI, ref);
	if (!vdi || operation_check_vdi(t, vdi, vdi_operations_destroy) < 0 ||
	    !storage_sr(t, vdi->SR))
		return -1;
	if (devices_delete(t, &class_VBD, "VDI", ref) < 0 || db_delete(t, &vdi->row) < 0)
		return -1;
	return storage_release(t, vdi, vdi->location, vdi->parent_location);
}

static int try_destroy(struct task *t, void *arg)
{
	const struct VDI_destroy *a = arg;
	DB_SCOPE(t);
	if (vdi_delete(t, a->self) < 0)
		return operation_tried(t);
	return db_commit(t) < 0 ? -1 : 1;
}

/* Clients that find nothing take the data by HTTP. */
int VDI_get_nbd_info(struct task *t, struct VDI_get_nbd_info *a)
{
	return db_get(t, VDI, a->self) ? 0 : -1;
}

int VDI_destroy(struct task *t, struct VDI_destroy *a)
{
	struct VDI_row *vdi = db_get(t, VDI, a->self);
	/* In a place that is gone nothing is deleted, and it is not said to be. */
	if (!vdi || storage_check_place(t, vdi->SR) < 0 || operation_wait(t, try_destroy, a) < 0)
		return -1;
	storage_refresh(t, vdi->SR, (const char *[]){ NULL });
	return 0;
}

/* ---- writing over one ---- */

static int check_overwrite(struct task *t, const struct VDI_row *vdi, const void *what)
{
	if (!storage_writable_sr(t, vdi->SR))
		return -1;
	if (vdi->is_a_snapshot || vdi->read_only || storage_has_layers(t, vdi->location))
		return fail(t, VDI_READONLY, vdi->row.ref);
	return need_check(t, vdi, NEED_WRITE, what);
}

struct VDI_row *vdi_begin_overwrite(struct task *t, const char *ref, const char *what)
{
	if (!operation_begin_vdi(t, ref, vdi_operations_blocked, check_overwrite, what) ||
	    coalesce_hold(t, t->scope, ref, true) < 0)
		return NULL;
	struct VDI_row *vdi = db_get(t, VDI, ref);
	return vdi && check_overwrite(t, vdi, what) == 0 ? vdi : NULL;
}

int VDI_update(struct task *t, struct VDI_update *a)
{
	const struct VDI_row *vdi = db_get(t, VDI, a->vdi);
	if (!vdi || !storage_sr(t, vdi->SR))
		return -1;
	storage_refresh(t, vdi->SR, (const char *[]){ a->vdi, NULL });
	return 0;
}
