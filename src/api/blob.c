// SPDX-License-Identifier: Apache-2.0
#include "api/blob.h"

#include "api/call.h"
#include "api/settings.h"
#include "api/undo.h"
#include "base/crash.h"
#include "base/io.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

static const char *path_of(struct task *t, const char *file)
{
	return str(t, "%s/blobs/%s", settings.state, file);
}

int blobs_open(struct task *t)
{
	return dir_make(t, str(t, "%s/blobs", settings.state), 0700);
}

/* ---- made ---- */

/* It is sent as a header when the bytes are. */
static int check_type(struct task *t, const char *mime_type)
{
	for (const char *p = mime_type; *p; p++)
		if (*p < ' ' || *p > '~')
			return fail(t, INVALID_VALUE, "mime_type", mime_type);
	return 0;
}

/* In a transaction; its ref. */
static const char *make(struct task *t, const char *holder, const char *name, const char *mime_type,
			bool public)
{
	struct blob_row *b = row_new(t, blob);
	if (check_type(t, mime_type) < 0)
		return NULL;
	b->name_label = name;
	b->mime_type = *mime_type ? mime_type : "application/octet-stream";
	b->public = public;
	b->holder = holder;
	b->last_updated = time_now(b);
	return db_insert(t, &b->row) < 0 ? NULL : b->row.ref;
}

int blob_create(struct task *t, struct blob_create *a)
{
	DB_SCOPE(t);
	a->result = make(t, NULL_REF, "", a->mime_type, a->public);
	return a->result ? db_commit(t) : -1;
}

/* Under a name of the object's, which it has not yet. */
static const char *make_new(struct task *t, const struct class *c, const char *ref,
			    const char *name, const char *mime_type, bool public)
{
	DB_SCOPE(t);
	struct row *holder = db_get_row(t, c, ref);
	struct map *blobs = holder ? field_map(holder, model_field(c, "blobs")) : NULL;
	if (!holder)
		return NULL;
	if (map_get(blobs, name))
		return fail_ptr(t, MAP_DUPLICATE_KEY, c->name, "blobs", ref, name);
	const char *blob = make(t, ref, name, mime_type, public);
	if (!blob)
		return NULL;
	map_set(holder, blobs, name, blob);
	return db_put(t, holder) < 0 || db_commit(t) < 0 ? NULL : blob;
}

#define HOLDER(class, arg)                                                                         \
	int class##_create_new_blob(struct task *t, struct class##_create_new_blob *a)             \
	{                                                                                          \
		a->result = make_new(t, &class_##class, a->arg, a->name, a->mime_type, a->public); \
		return a->result ? 0 : -1;                                                         \
	}
HOLDER(VM, vm)
HOLDER(host, host)
HOLDER(pool, pool)
HOLDER(SR, sr)
HOLDER(network, network)

/* ---- gone ---- */

/* In a transaction. */
static int delete_file_later(struct task *t, const char *file)
{
	if (!*file)
		return 0;
	const char *op = undo_later(t);
	int noted = undo_blob_delete(t, file);
	undo_now(t, op);
	return noted;
}

int blob_file_delete(struct task *t, const char *file)
{
	return *db_find(t, &class_blob, "file", file) ? 0 : file_delete(t, path_of(t, file));
}

static int drop(struct task *t, const struct blob_row *b)
{
	return delete_file_later(t, b->file) < 0 ? -1 : db_delete(t, &b->row);
}

int blobs_drop(struct task *t, const char *holder)
{
	DB_EACH (t, blob, b, "holder", holder)
		if (drop(t, b) < 0)
			return -1;
	return 0;
}

/* The object whose map names it; NULL: none. */
static struct row *holder_of(struct task *t, const struct blob_row *b)
{
	static const struct class *const holders[] = { &class_VM, &class_host, &class_pool,
						       &class_SR, &class_network };
	struct row *r = NULL;
	for (size_t i = 0; i < COUNT(holders) && !r && !ref_is_null(b->holder); i++)
		r = db_seek_row(t, holders[i], b->holder);
	return r;
}

static int forget_name(struct task *t, const struct blob_row *b)
{
	struct row *holder = holder_of(t, b);
	if (!holder)
		return 0;
	struct map *blobs = field_map(holder, model_field(holder->class, "blobs"));
	for (size_t i = blobs->n; i-- > 0;)
		if (streq(blobs->v[i].value, b->row.ref))
			map_remove(blobs, blobs->v[i].key);
	return db_put(t, holder);
}

int blob_destroy(struct task *t, struct blob_destroy *a)
{
	DB_SCOPE(t);
	struct blob_row *b = db_get(t, blob, a->self);
	if (!b || forget_name(t, b) < 0 || drop(t, b) < 0)
		return -1;
	return db_commit(t);
}

/* ---- its bytes ---- */

struct put {
	const char *blob;
	const void *bytes;
	size_t n;
};

static int record(struct task *t, const struct put *p, const char *file)
{
	DB_SCOPE(t);
	struct blob_row *b = db_get(t, blob, p->blob);
	if (!b || delete_file_later(t, b->file) < 0)
		return -1;
	b->file = file;
	b->size = (int64_t)p->n;
	b->last_updated = time_now(b);
	return db_put(t, &b->row) < 0 || journal_drop(t) < 0 ? -1 : db_commit(t);
}

static int run_put(struct task *t, void *args)
{
	const struct put *p = args;
	const char *file = uuid_new(t);
	if (undo_blob_delete(t, file) < 0)
		return -1;
	crash_point();
	if (file_write_bytes(t, path_of(t, file), p->bytes, p->n, 0600) < 0)
		return -1;
	crash_point();
	return record(t, p, file);
}

static const struct call call_put = {
	.name = "blob.put", .result = VOID, .role = role_vm_power_admin, .run = run_put
};

int blob_put(struct task *t, const char *ref, const void *bytes, size_t n)
{
	struct put p = { .blob = ref, .bytes = bytes, .n = n };
	return api_call(t, &call_put, &p);
}

const char *blob_get(struct task *t, const struct blob_row *b, size_t *ret_n)
{
	*ret_n = (size_t)b->size;
	return *b->file ? file_read(t, path_of(t, b->file), BLOB_LIMIT + 1) : "";
}
