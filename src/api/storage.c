// SPDX-License-Identifier: Apache-2.0
#include "api/storage.h"

#include <pthread.h>

#include "api/coalesce.h"
#include "api/guests.h"
#include "api/settings.h"
#include "api/undo.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "sr/serve.h"

/* One that is attached.  Whoever is at work on it holds it; it is let go of by who detaches it,
 * or by the last of those, who may come later. */
struct attached {
	struct attached *next;
	struct sr *sr;
	int users;
};

/* A thread that attaches an SR just now, or lets go of it. */
struct alone {
	struct alone *next;
	const char *uuid;
	pthread_t thread;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct attached *first;
	struct alone *alone;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* ---- using them ---- */

static struct attached *find(const char *uuid)
{
	struct attached *a = all.first;
	while (a && !streq(a->sr->uuid, uuid))
		a = a->next;
	return a;
}

/* The last one closes it, which may take a while on a storage that does not answer. */
static void put(struct attached *a)
{
	pthread_mutex_lock(&all.lock);
	bool last = --a->users == 0;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	if (last)
		talloc_free(a);
}

struct hold {
	struct attached *attached;
};

static int hold_free(struct hold *h)
{
	put(h->attached);
	return 0;
}

/* Until ctx is freed; NULL: it is not attached. */
static const struct sr *hold(const void *ctx, const char *uuid)
{
	pthread_mutex_lock(&all.lock);
	struct attached *a = find(uuid);
	if (a)
		a->users++;
	pthread_mutex_unlock(&all.lock);
	if (!a)
		return NULL;
	struct hold *h = talloc(ctx, struct hold);
	h->attached = a;
	talloc_set_destructor(h, hold_free);
	return a->sr;
}

const struct sr *storage_sr(struct task *t, const char *sr_ref)
{
	struct SR_row *row = db_get(t, SR, sr_ref);
	if (!row)
		return NULL;
	const struct sr *sr = hold(t->scope, row->uuid);
	if (!sr && !*db_find(t, &class_PBD, "SR", sr_ref))
		return fail_ptr(t, SR_HAS_NO_PBDS, sr_ref);
	return sr ? sr : fail_ptr(t, SR_NOT_ATTACHED, sr_ref);
}

int storage_check_place(struct task *t, const char *sr_ref)
{
	struct task *part = task_part(t);
	const struct sr *sr = storage_sr(part, sr_ref);
	int result = sr ? sr_check_place(part, sr) : -1;
	if (result < 0)
		task_fail_params(t, part->code, part->params);
	talloc_free(part);
	return result;
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

/* ---- attaching and detaching ---- */

static struct holder us(struct task *t)
{
	const struct host_row *host = db_seek(t, host, this_host());
	return (struct holder){ host ? host->uuid : "", host ? host->hostname : "",
				settings.state };
}

static void add(struct sr *sr)
{
	struct attached *a = talloc_zero(NULL, struct attached);
	a->sr = talloc_steal(a, sr);
	a->users = 1; /* the list's */
	pthread_mutex_lock(&all.lock);
	a->next = all.first;
	all.first = a;
	pthread_mutex_unlock(&all.lock);
}

/* Off the list; NULL: it is not on it.  The list's use of it is the caller's now. */
static struct attached *take_off(const char *uuid)
{
	pthread_mutex_lock(&all.lock);
	struct attached *a = find(uuid), **at = &all.first;
	while (a && *at != a)
		at = &(*at)->next;
	if (a)
		*at = a->next;
	pthread_mutex_unlock(&all.lock);
	return a;
}

static bool is_others(const char *uuid)
{
	const struct alone *a = all.alone;
	while (a && (!streq(a->uuid, uuid) || pthread_equal(a->thread, pthread_self())))
		a = a->next;
	return a;
}

static int alone_free(struct alone *a)
{
	struct alone **at = &all.alone;
	pthread_mutex_lock(&all.lock);
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	return 0;
}

void *storage_alone(const void *ctx, const char *uuid)
{
	struct alone *a = talloc_zero(ctx, struct alone);
	a->uuid = talloc_strdup(a, uuid);
	a->thread = pthread_self();
	pthread_mutex_lock(&all.lock);
	while (is_others(uuid))
		pthread_cond_wait(&all.changed, &all.lock);
	a->next = all.alone;
	all.alone = a;
	pthread_mutex_unlock(&all.lock);
	talloc_set_destructor(a, alone_free);
	return a;
}

static struct PBD_row *pbd_of(struct task *t, const char *sr_ref)
{
	return *(struct PBD_row **)db_find(t, &class_PBD, "SR", sr_ref);
}

static bool is_attached_well(struct task *t, const char *uuid)
{
	struct task *part = task_part(t);
	const struct sr *sr = hold(part, uuid);
	bool well = sr && sr_check_place(part, sr) == 0;
	talloc_free(part);
	return well;
}

/* Who is still at work on the one before goes on there. */
static int attach(struct task *t, const struct SR_row *row, const struct map *config, bool create)
{
	const struct holder holder = us(t);
	struct sr *sr =
		sr_open(t, &(struct sr_place){ row->type, row->uuid, config, &holder }, create);
	if (!sr)
		return -1;
	struct attached *before = take_off(row->uuid);
	if (before)
		put(before);
	add(sr);
	return 0;
}

int storage_attach(struct task *t, const struct SR_row *row, const struct map *config, bool create)
{
	void *alone = storage_alone(t, row->uuid);
	int result = is_attached_well(t, row->uuid) ? 0 : attach(t, row, config, create);
	talloc_free(alone);
	return result;
}

/* Does a guest have files open in it? */
static bool is_in_use(struct task *t, const char *sr_ref)
{
	DB_EACH (t, VDI, vdi, "SR", sr_ref) {
		DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref)
			if (vbd->currently_attached && guest_alive(vbd->VM))
				return true;
		DB_EACH (t, VM, vm, "NVRAM_VDI", vdi->row.ref)
			if (guest_alive(vm->row.ref))
				return true;
	}
	return false;
}

/* The files that guests have open are those of the folder before; what is only read may differ. */
static bool may_move(struct task *t, const char *sr_ref)
{
	struct task *part = task_part(t);
	const struct sr *sr = storage_sr(part, sr_ref);
	bool may = sr && (folder_is_there(&sr->folder) || storage_is_borrowed(part, sr_ref) ||
			  !is_in_use(part, sr_ref));
	talloc_free(part);
	return may;
}

/* It may have been unplugged since it was found to be plugged. */
static int attach_anew(struct task *t, const struct SR_row *row)
{
	void *alone = storage_alone(t, row->uuid);
	const struct PBD_row *pbd = pbd_of(t, row->row.ref);
	int result = pbd && pbd->currently_attached
			     ? storage_attach(t, row, &pbd->device_config, false)
			     : fail(t, SR_NOT_ATTACHED, row->row.ref);
	talloc_free(alone);
	if (result == 0)
		log_line(t, "sr found again sr=%s", row->uuid);
	return result;
}

/* That nothing is there to be attached says less than what came in the place of what was. */
int storage_find_again(struct task *t, const char *sr_ref)
{
	if (storage_check_place(t, sr_ref) == 0)
		return 0;
	if (!may_move(t, sr_ref))
		return -1;
	struct task *part = task_part(t);
	const struct SR_row *row = db_get(part, SR, sr_ref);
	int result = row ? attach_anew(part, row) : -1;
	if (result == 0 || part->code != SR_BACKEND_FAILURE_47)
		task_forgive(t);
	if (result < 0 && t->code == NO_ERROR)
		task_fail_params(t, part->code, part->params);
	talloc_free(part);
	return result;
}

/* Whoever is still at work on it when the time is over holds it until he is through. */
static void wait_for_users(const struct attached *a)
{
	int64_t until = clock_ms() + delay_ms(DELAY_SR_USERS);
	pthread_mutex_lock(&all.lock);
	while (a->users > 1 && clock_ms() < until)
		clock_wait(&all.changed, &all.lock, until);
	pthread_mutex_unlock(&all.lock);
}

void storage_detach(const char *uuid)
{
	struct attached *a = take_off(uuid);
	if (!a)
		return;
	wait_for_users(a);
	put(a);
}

/* By our descriptor, wherever the path leads to. */
static int leave(struct task *t, struct attached *a)
{
	wait_for_users(a);
	int left = sr_leave(t, a->sr);
	put(a);
	return left;
}

int storage_leave(struct task *t, const struct SR_row *row)
{
	void *alone = storage_alone(t, row->uuid);
	const struct holder holder = us(t);
	const struct PBD_row *pbd = pbd_of(t, row->row.ref);
	int left = 0;
	if (pbd && !pbd->currently_attached) {
		struct attached *a = take_off(row->uuid);
		const struct sr_place place = { row->type, row->uuid, &pbd->device_config,
						&holder };
		left = a ? leave(t, a) : sr_abandon(t, &place);
	}
	talloc_free(alone);
	return left;
}

/* ---- making and destroying ---- */

/* One that is not attached is, for that moment. */
static const struct sr *open_to_destroy(struct task *t, const void *scope, const struct SR_row *row,
					const struct map *config)
{
	const struct holder holder = us(t);
	const struct sr_place place = { row->type, row->uuid, config, &holder };
	const struct sr *sr = hold(scope, row->uuid);
	if (sr || undo_sr_let_go(t, row->row.ref) < 0)
		return sr;
	return talloc_steal(scope, sr_open(t, &place, false));
}

/* That is not noted before it is known that the place can be had. */
static int destroy(struct task *t, const struct sr *sr, const char *sr_ref)
{
	return sr_check_place(t, sr) < 0 || undo_sr_mark(t, sr_ref) < 0 ? -1 : sr_destroy(t, sr);
}

int storage_destroy(struct task *t, const struct SR_row *row, const struct map *config)
{
	void *scope = talloc_new(t);
	const struct sr *sr = open_to_destroy(t, scope, row, config);
	int result = sr ? destroy(t, sr, row->row.ref) : -1;
	talloc_free(scope);
	if (result == 0)
		storage_detach(row->uuid);
	return result;
}

int storage_restore(struct task *t, const struct SR_row *row, const struct map *config)
{
	const struct holder holder = us(t);
	struct sr *sr =
		sr_open(t, &(struct sr_place){ row->type, row->uuid, config, &holder }, true);
	int left = sr ? sr_leave(t, sr) : -1;
	talloc_free(sr);
	return left;
}

int storage_unmake(struct task *t, const struct SR_row *row, const struct map *config)
{
	const struct holder holder = us(t);
	const struct sr_place place = { row->type, row->uuid, config, &holder };
	storage_detach(row->uuid);
	struct sr *sr = sr_open(t, &place, false);
	int result = sr ? sr_destroy(t, sr) : 0;
	talloc_free(sr);
	if (sr)
		return result;
	task_forgive(t); /* the mark was not made yet, or only half */
	if (sr_abandon(t, &place) < 0)
		task_forgive(t);
	return 0;
}

/* ---- at the daemon's start and end ---- */

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

/* Guests run on, so it is held further: only the lock goes, with the process.  What is still in
 * use is left alone. */
void storage_close(void)
{
	struct attached *a;
	while ((a = all.first)) {
		all.first = a->next;
		put(a);
	}
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
