// SPDX-License-Identifier: Apache-2.0
#include "api/storage.h"

#include <pthread.h>

#include "api/coalesce.h"
#include "api/settings.h"
#include "api/undo.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "sr/serve.h"

/* The attached SRs.  An entry lives until the daemon ends: a detached one is only taken off the
 * list, since an operation may still hold it. */
static struct {
	pthread_mutex_t lock;
	void *memory;
	size_t n;
	const struct sr **v;
} attached = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const struct sr *attached_find(const char *uuid, bool take_off)
{
	const struct sr *found = NULL;
	pthread_mutex_lock(&attached.lock);
	for (size_t i = 0; i < attached.n && !found; i++)
		if (streq(attached.v[i]->uuid, uuid)) {
			found = attached.v[i];
			if (take_off)
				attached.v[i] = attached.v[--attached.n];
		}
	pthread_mutex_unlock(&attached.lock);
	return found;
}

const struct sr *storage_sr(struct task *t, const char *sr_ref)
{
	struct SR_row *row = db_get(t, SR, sr_ref);
	if (!row)
		return NULL;
	const struct sr *sr = attached_find(row->uuid, false);
	if (!sr && !*db_find(t, &class_PBD, "SR", sr_ref))
		return fail_ptr(t, SR_HAS_NO_PBDS, sr_ref);
	return sr ? sr : fail_ptr(t, SR_NOT_ATTACHED, sr_ref);
}

bool storage_is_borrowed(struct task *t, const char *sr_ref)
{
	struct SR_row *row = db_seek(t, SR, sr_ref);
	const struct sr_type *type = row ? sr_type_find(row->type) : NULL;
	return type && !type->layout->create;
}

const struct sr *storage_writable_sr(struct task *t, const char *sr_ref)
{
	if (storage_is_borrowed(t, sr_ref))
		return fail_ptr(t, SR_OPERATION_NOT_SUPPORTED, sr_ref);
	return storage_sr(t, sr_ref);
}

int storage_check_target(struct task *t, const char *sr_ref)
{
	if (ref_is_null(sr_ref))
		return 0;
	const struct SR_row *row = db_get(t, SR, sr_ref);
	if (!row || !storage_sr(t, sr_ref))
		return -1;
	return streq(row->content_type, "iso")
		       ? fail(t, OPERATION_NOT_ALLOWED, "an SR of CD images holds no disks")
		       : 0;
}

int storage_attach(struct task *t, const struct SR_row *row, const struct map *config, bool create)
{
	struct sr *sr = sr_open(t, row->type, row->uuid, config, create);
	if (!sr)
		return -1;
	storage_detach(row->uuid);
	pthread_mutex_lock(&attached.lock);
	if (!attached.memory)
		attached.memory = talloc_new(NULL);
	attached.v = talloc_realloc(attached.memory, attached.v, const struct sr *, attached.n + 1);
	attached.v[attached.n++] = talloc_steal(attached.memory, sr);
	pthread_mutex_unlock(&attached.lock);
	return 0;
}

void storage_detach(const char *uuid)
{
	attached_find(uuid, true);
}

static int unplug_row(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct PBD_row *pbd = db_get(t, PBD, ref);
	if (!pbd)
		return -1;
	pbd->currently_attached = false;
	if (db_put(t, &pbd->row) < 0)
		return -1;
	return db_commit(t);
}

void storage_open(struct task *t)
{
	serve_tidy(t);
	DB_ALL (t, PBD, pbd) {
		struct SR_row *sr = db_seek(t, SR, pbd->SR);
		if (!sr || !pbd->currently_attached)
			continue;
		if (storage_attach(t, sr, &pbd->device_config, false) == 0)
			continue;
		log_line(t, "sr not attached sr=%s error=\"%s\"", sr->uuid, task_error(t));
		task_forgive(t);
		unplug_row(t, pbd->row.ref);
	}
}

void storage_close(void)
{
	TALLOC_FREE(attached.memory);
	attached.v = NULL;
	attached.n = 0;
}

/* ---- whose is a volume ---- */

struct VDI_row *storage_owner(struct task *t, const char *volume)
{
	return *(struct VDI_row **)db_find(t, &class_VDI, "location", volume);
}

bool storage_has_layers(struct task *t, const char *volume)
{
	return *db_find(t, &class_VDI, "parent_location", volume) != NULL;
}

int storage_hide(struct task *t, const struct VDI_row *from, const char *volume, const char *parent)
{
	struct VDI_row *base = row_new(t, VDI);
	base->name_label = "base copy";
	base->SR = from->SR;
	base->location = volume;
	base->parent_location = parent;
	base->virtual_size = from->virtual_size;
	base->physical_utilisation = from->physical_utilisation;
	base->managed = false;
	base->read_only = true;
	map_set(base, &base->sm_config, "vdi_type", "qcow2");
	coalesce_kick(from->SR, volume);
	return db_insert(t, &base->row);
}

int storage_delete_later(struct task *t, const char *sr, const char *volume)
{
	const char *op = t->op;
	t->op = STORAGE_RECLAIM;
	int written = undo_vol_delete(t, sr, volume, "");
	t->op = op;
	coalesce_reclaim_soon();
	return written;
}

int storage_prune(struct task *t, const char *sr, const char *volume)
{
	while (*volume) {
		struct VDI_row *vdi = storage_owner(t, volume);
		if (!vdi || vdi->managed || storage_has_layers(t, volume))
			break;
		if (db_delete(t, &vdi->row) < 0 || storage_delete_later(t, sr, volume) < 0)
			return -1;
		volume = vdi->parent_location;
	}
	coalesce_kick(sr, volume);
	return 0;
}

int storage_release(struct task *t, const struct VDI_row *from, const char *volume,
		    const char *parent)
{
	if (storage_has_layers(t, volume))
		return storage_hide(t, from, volume, parent);
	if (storage_delete_later(t, from->SR, volume) < 0)
		return -1;
	return storage_prune(t, from->SR, parent);
}

/* ---- sizes ---- */

int storage_write_size(struct task *t, const char *ref, const struct volume *v)
{
	DB_SCOPE(t);
	struct VDI_row *vdi = db_seek(t, VDI, ref);
	if (!vdi || !streq(vdi->location, v->id))
		return 0;
	if (vdi->physical_utilisation == (int64_t)v->physical_size &&
	    vdi->virtual_size == (int64_t)v->virtual_size)
		return 0;
	vdi->physical_utilisation = (int64_t)v->physical_size;
	vdi->virtual_size = (int64_t)v->virtual_size;
	if (db_put(t, &vdi->row) < 0)
		return -1;
	return db_commit(t);
}

int storage_settle_size(struct task *t, const char *ref)
{
	struct VDI_row *vdi = db_seek(t, VDI, ref);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	struct volume v;
	if (!vdi)
		return 0;
	if (!sr)
		return -1;
	if (sr->layout->stat(t, sr, vdi->location, &v) == 0)
		return storage_write_size(t, ref, &v);
	if (t->code != VDI_MISSING)
		return -1;
	task_forgive(t);
	return 0;
}

int storage_write_sums(struct task *t, const char *sr_ref, uint64_t total)
{
	DB_SCOPE(t);
	struct SR_row *row = db_seek(t, SR, sr_ref);
	if (!row)
		return 0;
	int64_t virtual = db_sum(t, &class_VDI, "virtual_size", "SR", sr_ref, "managed", "true",
				 NULL);
	int64_t physical = db_sum(t, &class_VDI, "physical_utilisation", "SR", sr_ref, NULL);
	if (row->physical_size == (int64_t)total && row->virtual_allocation == virtual &&
	    row->physical_utilisation == physical)
		return 0;
	row->physical_size = (int64_t)total;
	row->virtual_allocation = virtual;
	row->physical_utilisation = physical;
	if (db_put(t, &row->row) < 0)
		return -1;
	return db_commit(t);
}

void storage_refresh(struct task *t, const char *sr_ref, const char *const *vdis)
{
	struct task *own = task_new(t, t->name);
	const struct sr *sr = storage_sr(own, sr_ref);
	uint64_t total, free_bytes;
	for (; sr && *vdis; vdis++) {
		struct VDI_row *vdi = db_seek(own, VDI, *vdis);
		struct volume v;
		if (vdi && sr->layout->stat(own, sr, vdi->location, &v) == 0)
			storage_write_size(own, *vdis, &v);
	}
	if (sr && sr->layout->space(own, sr, &total, &free_bytes) == 0)
		storage_write_sums(own, sr_ref, total);
	talloc_free(own);
}
