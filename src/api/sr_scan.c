// SPDX-License-Identifier: Apache-2.0
/* sr_scan.c -- records of what an SR has: a scan makes those that are missing, and clients make and drop some by hand. */
#include "api/call.h"
#include "api/device.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/takes.h"
#include "api/vdi.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "db/db.h"
#include "db/journal.h"

/* ---- the record of a volume ---- */

static bool in_flight(struct task *t, const char *volume)
{
	return journal_mentions(t, "VOL_DELETE", 1, volume);
}

static bool has_layers(const struct volumes *all, const char *id)
{
	for (size_t i = 0; i < all->n; i++)
		if (streq(all->v[i].parent, id))
			return true;
	return false;
}

/* What the storage tells of a volume. */
static struct VDI_row *row_of(struct task *t, const char *sr, const struct volumes *all,
			      const struct volume *v)
{
	struct VDI_row *vdi = row_new(t, VDI);
	bool disc = storage_is_borrowed(t, sr);
	vdi->name_label = vdi->location = v->id;
	vdi->SR = sr;
	vdi->type = vdi_type_user;
	vdi->parent_location = disc ? "" : v->parent;
	vdi->virtual_size = (int64_t)v->virtual_size;
	vdi->physical_utilisation = (int64_t)v->physical_size;
	vdi->managed = true;
	/* A layer below others may have been somebody's snapshot: nothing tells, so it is not hidden, for what is
	 * hidden is merged. */
	vdi->read_only = disc || has_layers(all, v->id);
	if (!disc)
		vdi_set_format(vdi, v->raw);
	return vdi;
}

/* Of discs the file's name is all that is known, and two SRs may have the same one. */
static const struct VDI_row *record_of(struct task *t, const char *sr, const char *id)
{
	if (!storage_is_borrowed(t, sr))
		return storage_owner(t, id);
	DB_EACH (t, VDI, known, "SR", sr)
		if (streq(known->location, id))
			return known;
	return NULL;
}

/* ---- scan ---- */

/* A volume without a record: of an SR that was introduced, or put there by hand. */
static int adopt_volume(struct task *t, const char *sr, const struct volumes *all,
			const struct volume *v)
{
	DB_SCOPE(t);
	const struct VDI_row *known = record_of(t, sr, v->id);
	if (known && !streq(known->SR, sr))
		log_line(t,
			 "left out a volume that another SR's record names sr=%s volume=%s of=%s",
			 sr, v->id, known->SR);
	if (known || in_flight(t, v->id))
		return 0;
	return db_insert(t, &row_of(t, sr, all, v)->row) < 0 ? -1 : db_commit(t);
}

/* A disc whose file is gone is forgotten, unless a drive still names it. */
static bool is_forgettable(struct task *t, const struct VDI_row *vdi)
{
	return storage_is_borrowed(t, vdi->SR) && !vdi->current_operations.n &&
	       !*db_find(t, &class_VBD, "VDI", vdi->row.ref);
}

/* Asked of the storage itself: the list may be older than the row. */
static int check_present(struct task *t, const struct sr *sr, const char *ref)
{
	struct VDI_row *now = db_seek(t, VDI, ref);
	struct volume v;
	bool missing = now && sr->layout->stat(t, sr, now->location, &v) < 0;
	if (missing && t->code == SR_BACKEND_FAILURE_46) {
		log_line(t, "volume is not sound vdi=%s error=\"%s\"", now->uuid, task_error(t));
		task_forgive(t);
		return 0; /* the others are brought into agreement all the same */
	}
	if (missing && t->code != VDI_MISSING)
		return -1;
	task_forgive(t);
	DB_SCOPE(t);
	struct VDI_row *vdi = db_seek(t, VDI, ref);
	if (!vdi || !now || vdi->row.gen != now->row.gen)
		return 0;
	bool forget = missing && is_forgettable(t, vdi);
	if (vdi->missing == missing && !forget)
		return 0;
	vdi->missing = missing;
	if ((forget ? db_delete(t, &vdi->row) : db_put(t, &vdi->row)) < 0)
		return -1;
	return db_commit(t);
}

int SR_scan(struct task *t, struct SR_scan *a)
{
	const struct sr *sr = storage_find_again(t, a->sr) < 0 ? NULL : storage_sr(t, a->sr);
	struct volumes all;
	if (!sr || sr->layout->scan(t, sr, &all) < 0)
		return -1;
	for (size_t i = 0; i < all.n; i++)
		if (adopt_volume(t, a->sr, &all, &all.v[i]) < 0)
			return -1;
	struct list refs = { 0 };
	DB_EACH (t, VDI, vdi, "SR", a->sr)
		list_add(t, &refs, vdi->row.ref);
	for (size_t i = 0; i < refs.n; i++)
		if (check_present(t, sr, refs.v[i]) < 0)
			return -1;
	list_add(t, &refs, "");
	refs.v[refs.n - 1] = NULL;
	storage_refresh(t, a->sr, refs.v);
	return 0;
}

/* ---- by hand ---- */

static const struct volume *volume_of(const struct volumes *all, const char *id)
{
	for (size_t i = 0; i < all->n; i++)
		if (streq(all->v[i].id, id))
			return &all->v[i];
	return NULL;
}

static int check_introduce(struct task *t, const struct VDI_introduce *a)
{
	if (enum_value("vdi_type", a->type) < 0)
		return fail(t, INVALID_VALUE, "type", a->type);
	if (!text_is_uuid(a->uuid))
		return fail(t, INVALID_VALUE, "uuid", a->uuid);
	if (!a->managed)
		return fail(t, VALUE_NOT_SUPPORTED, "managed", "false",
			    "a layer that no record stands on would be deleted");
	return takes_check_map(t, &class_VDI, "sm_config", &a->sm_config) < 0
		       ? -1
		       : takes_check_map(t, &class_VDI, "other_config", &a->other_config);
}

/* Sizes, format and what the volume stands on are the storage's to tell, whatever the client says. */
static void describe(struct VDI_row *vdi, const struct VDI_introduce *a)
{
	vdi->uuid = a->uuid;
	vdi->name_label = *a->name_label ? a->name_label : vdi->name_label;
	vdi->name_description = a->name_description;
	vdi->type = (enum vdi_type)enum_value("vdi_type", a->type);
	vdi->sharable = a->sharable;
	vdi->read_only |= a->read_only;
	vdi->other_config = a->other_config;
	vdi->xenstore_data = a->xenstore_data;
	if (!a->is_a_snapshot)
		return;
	vdi->is_a_snapshot = true;
	vdi->snapshot_of = a->snapshot_of;
	vdi->snapshot_time = a->snapshot_time;
}

int VDI_introduce(struct task *t, struct VDI_introduce *a)
{
	const struct sr *sr = check_introduce(t, a) < 0 ? NULL : storage_sr(t, a->SR);
	struct volumes all;
	if (!sr || sr->layout->scan(t, sr, &all) < 0)
		return -1;
	const struct volume *v = volume_of(&all, a->location);
	if (!v)
		return fail(t, VDI_MISSING, a->SR, a->location);
	DB_SCOPE(t);
	if (*db_find(t, &class_VDI, "uuid", a->uuid))
		return fail(t, DB_UNIQUENESS_CONSTRAINT_VIOLATION, "VDI", "uuid", a->uuid);
	if (record_of(t, a->SR, v->id) || in_flight(t, v->id))
		return fail(t, LOCATION_NOT_UNIQUE, a->SR, a->location);
	struct VDI_row *vdi = row_of(t, a->SR, &all, v);
	describe(vdi, a);
	a->result = vdi->row.ref;
	return db_insert(t, &vdi->row) < 0 ? -1 : db_commit(t);
}

static int try_forget(struct task *t, void *arg)
{
	const struct VDI_forget *a = arg;
	DB_SCOPE(t);
	struct VDI_row *vdi = db_get(t, VDI, a->vdi);
	if (!vdi)
		return -1;
	if (operation_check_vdi(t, vdi, vdi_operations_forget) < 0)
		return operation_tried(t);
	if (devices_delete(t, &class_VBD, "VDI", a->vdi) < 0 || db_delete(t, &vdi->row) < 0)
		return -1;
	return db_commit(t) < 0 ? -1 : 1;
}

int VDI_forget(struct task *t, struct VDI_forget *a)
{
	return operation_wait(t, try_forget, a);
}
