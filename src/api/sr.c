// SPDX-License-Identifier: Apache-2.0
/* sr.c -- storage repositories and how hosts reach them. */
#include "api/blob.h"
#include "api/call.h"
#include "api/cd.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/need.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/vdi.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"
#include "sr/attach_local.h"

static struct PBD_row *pbd_of(struct task *t, const char *sr)
{
	return *(struct PBD_row **)db_find(t, &class_PBD, "SR", sr);
}

static int check_type(struct task *t, const char *type)
{
	return sr_type_find(type) ? 0 : fail(t, SR_UNKNOWN_DRIVER, type);
}

/* No type here asks for a password; and one in a device_config could be read by everybody.  It is not told again. */
static int check_config(struct task *t, const struct map *device_config)
{
	for (size_t i = 0; i < device_config->n; i++) {
		const char *key = device_config->v[i].key;
		if (strcasestr(key, "password") || strcasestr(key, "secret"))
			return fail(t, VALUE_NOT_SUPPORTED, str(t, "device_config:%s", key), "",
				    "no storage here asks for a password, and everybody who may "
				    "log in can read a device_config");
	}
	return 0;
}

/* What the type holds by nature, else what the user says. */
static const char *content_type(const char *type, const char *wanted)
{
	const char *content = sr_type_find(type)->content;
	return content ? content : wanted;
}

/* ---- create, introduce ---- */

static struct SR_row *sr_row(struct task *t, const struct SR_create *a)
{
	struct SR_row *sr = row_new(t, SR);
	sr->name_label = a->name_label;
	sr->name_description = a->name_description;
	sr->type = a->type;
	sr->content_type = content_type(a->type, a->content_type);
	sr->shared = a->shared;
	return sr;
}

static int insert_both(struct task *t, struct SR_row *sr, const struct map *config)
{
	DB_SCOPE(t);
	struct PBD_row *pbd = row_new(t, PBD);
	pbd->host = this_host();
	pbd->SR = sr->row.ref;
	pbd->device_config = *config;
	if (undo_record_delete(t, "SR", sr->row.ref) < 0 || db_insert(t, &sr->row) < 0 ||
	    db_insert(t, &pbd->row) < 0 || undo_sr_detach(t, sr->row.ref) < 0)
		return -1;
	return db_commit(t);
}

/* The pool's first SR that takes disks is its default. */
static int set_default(struct task *t, const char *sr)
{
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	if (!pool || db_seek(t, SR, pool->default_SR) || storage_is_borrowed(t, sr))
		return 0;
	pool->default_SR = pool->suspend_image_SR = pool->crash_dump_SR = sr;
	return db_put(t, &pool->row);
}

static int record_plugged(struct task *t, const char *sr)
{
	DB_SCOPE(t);
	struct PBD_row *pbd = pbd_of(t, sr);
	if (!pbd)
		return fail(t, SR_HAS_NO_PBDS, sr);
	pbd->currently_attached = true;
	map_remove(&pbd->device_config, TAKE_OVER); /* it was meant for once */
	if (db_put(t, &pbd->row) < 0 || set_default(t, sr) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* An SR that is born with volumes; it is made, whatever comes of this. */
static void first_scan(struct task *t, const char *sr)
{
	if (!storage_is_borrowed(t, sr)) {
		storage_refresh(t, sr, (const char *[]){ NULL });
		return;
	}
	struct task *own = task_new(t, t->name);
	if (SR_scan(own, &(struct SR_scan){ .sr = sr }) < 0)
		log_line(own, "sr not scanned sr=%s error=\"%s\"", sr, task_error(own));
	talloc_free(own);
}

int SR_create(struct task *t, struct SR_create *a)
{
	if (check_type(t, a->type) < 0 || check_config(t, &a->device_config) < 0)
		return -1;
	struct SR_row *sr = sr_row(t, a);
	if (insert_both(t, sr, &a->device_config) < 0 ||
	    storage_attach(t, sr, &a->device_config, true) < 0 ||
	    record_plugged(t, sr->row.ref) < 0)
		return -1;
	a->result = sr->row.ref;
	first_scan(t, a->result);
	return 0;
}

int SR_introduce(struct task *t, struct SR_introduce *a)
{
	if (check_type(t, a->type) < 0)
		return -1;
	if (!text_is_uuid(a->uuid))
		return fail(t, INVALID_VALUE, "uuid", a->uuid);
	DB_SCOPE(t);
	if (*db_find(t, &class_SR, "uuid", a->uuid))
		return fail(t, DB_UNIQUENESS_CONSTRAINT_VIOLATION, "SR", "uuid", a->uuid);
	struct SR_row *sr = row_new(t, SR);
	sr->uuid = a->uuid;
	sr->name_label = a->name_label;
	sr->name_description = a->name_description;
	sr->type = a->type;
	sr->content_type = content_type(a->type, a->content_type);
	sr->shared = a->shared;
	if (db_insert(t, &sr->row) < 0)
		return -1;
	a->result = sr->row.ref;
	return db_commit(t);
}

/* As the drivers of XenServer print it. */
int SR_probe(struct task *t, struct SR_probe *a)
{
	if (!db_get(t, host, a->host) || check_type(t, a->type) < 0 ||
	    check_config(t, &a->device_config) < 0)
		return -1;
	const char *uuid = sr_probe(t, a->type, &a->device_config);
	if (!uuid)
		return -1;
	const char *found = *uuid ? str(t, "\t<SR>\n\t\t<UUID>%s</UUID>\n\t</SR>\n", uuid) : "";
	a->result = str(t, "<?xml version=\"1.0\" ?>\n<SRlist>\n%s</SRlist>\n", found);
	return 0;
}

/* ---- forget, destroy ---- */

/* A VM whose memory or variables are out of reach does not refer to what is no disk any more. */
static int lose_kept(struct task *t, const char *vdi)
{
	DB_EACH (t, VM, vm, "suspend_VDI", vdi) {
		vm->suspend_VDI = NULL_REF;
		if (db_put(t, &vm->row) < 0)
			return -1;
	}
	DB_EACH (t, VM, vm, "NVRAM_VDI", vdi) {
		vm->NVRAM_VDI = NULL_REF;
		if (db_put(t, &vm->row) < 0)
			return -1;
	}
	return 0;
}

static int delete_records(struct task *t, struct SR_row *sr)
{
	DB_EACH (t, VDI, vdi, "SR", sr->row.ref)
		if (cd_lose_disc(t, vdi->row.ref) < 0 || lose_kept(t, vdi->row.ref) < 0 ||
		    devices_delete(t, &class_VBD, "VDI", vdi->row.ref) < 0)
			return -1;
	if (db_delete_all(t, &class_VDI, "SR", sr->row.ref) < 0 ||
	    db_delete_all(t, &class_PBD, "SR", sr->row.ref) < 0 || blobs_drop(t, sr->row.ref) < 0)
		return -1;
	return db_delete(t, &sr->row);
}

int SR_forget(struct task *t, struct SR_forget *a)
{
	DB_SCOPE(t);
	struct SR_row *sr = db_get(t, SR, a->sr);
	if (!sr)
		return -1;
	DB_EACH (t, PBD, pbd, "SR", a->sr)
		if (pbd->currently_attached)
			return fail(t, SR_HAS_PBD, a->sr);
	if (delete_records(t, sr) < 0)
		return -1;
	return db_commit(t);
}

/* The files are another's: as with XenServer only our records of them go. */
static int give_back(struct task *t, const struct PBD_row *pbd, const char *sr)
{
	if (pbd && pbd->currently_attached &&
	    PBD_unplug(t, &(struct PBD_unplug){ .self = pbd->row.ref }) < 0)
		return -1;
	return SR_forget(t, &(struct SR_forget){ .sr = sr });
}

int SR_destroy(struct task *t, struct SR_destroy *a)
{
	struct SR_row *sr = db_get(t, SR, a->sr);
	struct PBD_row *pbd = sr ? pbd_of(t, a->sr) : NULL;
	if (!sr)
		return -1;
	if (storage_is_borrowed(t, a->sr))
		return give_back(t, pbd, a->sr);
	if (!pbd)
		return fail(t, SR_HAS_NO_PBDS, a->sr);
	if (*db_find(t, &class_VDI, "SR", a->sr))
		return fail(t, SR_NOT_EMPTY);
	if (coalesce_hold_sr(t, t->scope, a->sr) < 0)
		return -1;
	if (storage_destroy(t, sr, &pbd->device_config) < 0)
		return -1;
	DB_SCOPE(t);
	sr = db_get(t, SR, a->sr);
	if (!sr || delete_records(t, sr) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* ---- PBDs ---- */

int PBD_create(struct task *t, struct PBD_create *a)
{
	DB_SCOPE(t);
	if (!db_get(t, host, a->host) || !db_get(t, SR, a->SR) ||
	    check_config(t, &a->device_config) < 0)
		return -1;
	if (pbd_of(t, a->SR))
		return fail(t, DB_UNIQUENESS_CONSTRAINT_VIOLATION, "PBD", "SR", a->SR);
	struct PBD_row *pbd = row_new(t, PBD);
	pbd->host = a->host;
	pbd->SR = a->SR;
	pbd->device_config = a->device_config;
	if (db_insert(t, &pbd->row) < 0)
		return -1;
	a->result = pbd->row.ref;
	return db_commit(t);
}

static struct PBD_row *unplugged(struct task *t, const char *ref)
{
	struct PBD_row *pbd = db_get(t, PBD, ref);
	if (pbd && pbd->currently_attached)
		return fail_ptr(t, OPERATION_NOT_ALLOWED, "the PBD is plugged; unplug it first");
	return pbd;
}

int PBD_set_device_config(struct task *t, struct PBD_set_device_config *a)
{
	DB_SCOPE(t);
	struct PBD_row *pbd = unplugged(t, a->self);
	if (!pbd || check_config(t, &a->value) < 0)
		return -1;
	pbd->device_config = a->value;
	if (db_put(t, &pbd->row) < 0)
		return -1;
	return db_commit(t);
}

/* NULL, or the first of the SR's volumes that a record of another SR names. */
static const struct VDI_row *first_of_another(struct task *t, const char *sr,
					      const struct volumes *all)
{
	for (size_t i = 0; i < all->n; i++) {
		const struct VDI_row *owner = storage_owner(t, all->v[i].id);
		if (owner && !streq(owner->SR, sr))
			return owner;
	}
	return NULL;
}

static int look_for_a_copy(struct task *t, const struct SR_row *row)
{
	struct volumes all;
	const struct sr *sr = storage_sr(t, row->row.ref);
	if (!sr || sr->layout->scan(t, sr, &all) < 0)
		return -1;
	const struct VDI_row *of = first_of_another(t, row->row.ref, &all);
	const struct SR_row *other = of ? db_seek(t, SR, of->SR) : NULL;
	if (!other)
		return 0;
	return folder_refuse(
		t, sr->path,
		str(t,
		    "its volume %s is recorded as one of the SR %s (%s), so this is a copy of "
		    "that SR's folder: forget that SR first (sr-forget), or copy its disks with "
		    "vdi-copy",
		    of->location, other->uuid, other->name_label));
}

/* An SR without records is new to us.  A part of the task holds it, so that it can be let go of
 * again. */
static int check_no_copy(struct task *t, const struct SR_row *row)
{
	if (*db_find(t, &class_VDI, "SR", row->row.ref) || storage_is_borrowed(t, row->row.ref))
		return 0;
	struct task *part = task_part(t);
	int result = look_for_a_copy(part, row);
	if (result < 0)
		task_fail_params(t, part->code, part->params);
	talloc_free(part);
	return result;
}

static int attach(struct task *t, const struct SR_row *sr)
{
	const struct PBD_row *pbd = pbd_of(t, sr->row.ref);
	if (!pbd)
		return fail(t, SR_HAS_NO_PBDS, sr->row.ref);
	if (undo_sr_let_go(t, sr->row.ref) < 0 ||
	    storage_attach(t, sr, &pbd->device_config, false) < 0 || check_no_copy(t, sr) < 0)
		return -1;
	return record_plugged(t, sr->row.ref);
}

/* Whoever lets go of it meanwhile looks whether it is plugged before that, or behind. */
static int plug(struct task *t, const struct SR_row *sr)
{
	void *alone = storage_alone(t, sr->uuid);
	int result = attach(t, sr);
	talloc_free(alone);
	return result;
}

int PBD_plug(struct task *t, struct PBD_plug *a)
{
	struct PBD_row *pbd = db_get(t, PBD, a->self);
	struct SR_row *sr = pbd ? db_get(t, SR, pbd->SR) : NULL;
	if (!sr)
		return -1;
	if (pbd->currently_attached && storage_check_place(t, sr->row.ref) == 0)
		return 0;
	if (pbd->currently_attached) {
		task_forgive(t);
		return SR_scan(t, &(struct SR_scan){ .sr = sr->row.ref });
	}
	if (plug(t, sr) < 0)
		return -1;
	if (SR_scan(t, &(struct SR_scan){ .sr = sr->row.ref }) < 0)
		return -1;
	coalesce_kick_sr(t, sr->row.ref);
	return 0;
}

static int check_idle(struct task *t, const struct SR_row *sr)
{
	DB_EACH (t, VDI, vdi, "SR", sr->row.ref) {
		if (vdi->current_operations.n)
			return fail(t, VDI_IN_USE, vdi->row.ref, "unplug");
		if (need_check(t, vdi, NEED_UNPLUG, "unplug") < 0)
			return -1;
	}
	return 0;
}

static int let_go_later(struct task *t, const char *sr)
{
	const char *op = undo_later(t);
	int noted = undo_sr_let_go(t, sr);
	undo_now(t, op);
	return noted;
}

int PBD_unplug(struct task *t, struct PBD_unplug *a)
{
	const struct PBD_row *held = db_get(t, PBD, a->self);
	if (!held || coalesce_hold_sr(t, t->scope, held->SR) < 0)
		return -1;
	DB_SCOPE(t);
	struct PBD_row *pbd = db_get(t, PBD, a->self);
	struct SR_row *sr = pbd ? db_seek(t, SR, pbd->SR) : NULL;
	if (!pbd)
		return -1;
	if (sr && check_idle(t, sr) < 0)
		return -1;
	pbd->currently_attached = false;
	if (db_put(t, &pbd->row) < 0 || (sr && let_go_later(t, sr->row.ref) < 0))
		return -1;
	return db_commit(t);
}

int PBD_destroy(struct task *t, struct PBD_destroy *a)
{
	DB_SCOPE(t);
	struct PBD_row *pbd = unplugged(t, a->self);
	if (!pbd || db_delete(t, &pbd->row) < 0)
		return -1;
	return db_commit(t);
}

int SR_update(struct task *t, struct SR_update *a)
{
	if (!storage_sr(t, a->sr))
		return -1;
	storage_refresh(t, a->sr, (const char *[]){ NULL });
	return 0;
}

int SR_get_supported_types(struct task *t, struct SR_get_supported_types *a)
{
	for (const struct sr_type *type = sr_types; type->name; type++)
		list_add(t, &a->result, type->name);
	return 0;
}
