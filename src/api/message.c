// SPDX-License-Identifier: Apache-2.0
#include "api/message.h"

#include <pthread.h>

#include "api/call.h"
#include "base/limits.h"
#include "base/task.h"
#include "db/db.h"

enum {
	AT_ONCE = 500,
	KINDS = 4096, /* two that fall together share what is said about them */
};

static int create(struct task *t, struct message_create *a)
{
	DB_SCOPE(t);
	struct message_row *m = row_new(t, message);
	m->name = a->name;
	m->priority = a->priority;
	m->cls = a->cls;
	m->obj_uuid = a->obj_uuid;
	m->timestamp = time_now(m);
	m->body = a->body;
	if (db_insert(t, &m->row) < 0)
		return -1;
	a->result = m->row.ref;
	return db_commit(t);
}

int message_create(struct task *t, struct message_create *a)
{
	size_t n = strlen(a->name) + strlen(a->body);
	if (n > MESSAGE_TEXT_LIMIT)
		return fail(t, VALUE_NOT_SUPPORTED, "body", str(t, "%zu bytes", n),
			    str(t, "name and body have %d bytes at most", MESSAGE_TEXT_LIMIT));
	return create(t, a);
}

/* ---- what guests bring about ---- */

static struct {
	pthread_mutex_t lock;
	struct bucket kinds[KINDS];
} told = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* A guest can crash, or fill its storage, as often as it likes. */
static bool is_of_guest(const char *name)
{
	static const char *const names[] = { "VM_CRASHED", "VM_STORAGE_ERROR",
					     "VM_PAUSED_STORAGE_FULL", "VM_RESUMED_STORAGE_ROOM" };
	for (size_t i = 0; i < COUNT(names); i++)
		if (streq(names[i], name))
			return true;
	return false;
}

static size_t kind_of(const char *name, const char *uuid)
{
	size_t h = 5381;
	for (const char *s = name; *s; s++)
		h = h * 33 + (unsigned char)*s;
	for (const char *s = uuid; *s; s++)
		h = h * 33 + (unsigned char)*s;
	return h % KINDS;
}

/* How many like it were left out; -1: so is this one. */
static int64_t count(const char *name, const char *uuid)
{
	struct bucket *b = &told.kinds[kind_of(name, uuid)];
	pthread_mutex_lock(&told.lock);
	bool may = bucket_take(b, 1, MESSAGES_OF_OBJECT_LIMIT, 1 / 60.0);
	int64_t left_out = may ? b->left_out : -1;
	if (may)
		b->left_out = 0;
	pthread_mutex_unlock(&told.lock);
	return left_out;
}

int message_tell(struct task *t, const char *name, int64_t priority, enum cls class,
		 const char *obj_uuid, const char *body)
{
	int64_t left_out = is_of_guest(name) ? count(name, obj_uuid) : 0;
	if (left_out < 0)
		return 0;
	if (left_out)
		body = str(t, "%s (%lld messages like this one were left out.)", body,
			   (long long)left_out);
	return create(t, &(struct message_create){ .name = name,
						   .priority = priority,
						   .cls = class,
						   .obj_uuid = obj_uuid,
						   .body = body });
}

/* ---- reading ---- */

static bool is_of(const struct message_row *m, const struct message_get *a)
{
	return m->cls == a->cls && streq(m->obj_uuid, a->obj_uuid);
}

/* of NULL: any object. */
static struct row **since(struct task *t, const char *time, const struct message_get *of)
{
	struct row **rows = db_find(t, &class_message, NULL, NULL);
	size_t kept = 0;
	for (size_t i = 0; rows[i]; i++) {
		const struct message_row *m = (struct message_row *)rows[i];
		if (strcmp(m->timestamp, time) >= 0 && (!of || is_of(m, of)))
			rows[kept++] = rows[i];
	}
	rows[kept] = NULL;
	return rows;
}

int message_get(struct task *t, struct message_get *a)
{
	a->result = since(t, a->since, a);
	return 0;
}

int message_get_since(struct task *t, struct message_get_since *a)
{
	a->result = since(t, a->since, NULL);
	return 0;
}

/* ---- the end ---- */

/* A transaction's worth; how many are still too many. */
static int64_t collect(struct task *t)
{
	int64_t over = db_count(&class_message) - MESSAGES_LIMIT;
	if (over <= 0)
		return 0;
	struct list refs = db_refs(t, &class_message, NULL, NULL);
	size_t n = over < AT_ONCE ? (size_t)over : AT_ONCE;
	DB_SCOPE(t);
	for (size_t i = 0; i < n && i < refs.n; i++) {
		const struct row *m = db_seek_row(t, &class_message, refs.v[i]);
		if (m && db_delete(t, m) < 0)
			return -1;
	}
	return db_commit(t) < 0 ? -1 : over - (int64_t)n;
}

int messages_collect(struct task *t)
{
	int64_t over;
	do {
		struct task *own = task_part(t);
		over = collect(own);
		if (over < 0)
			task_fail_params(t, own->code, own->params);
		talloc_free(own);
	} while (over > 0);
	return over < 0 ? -1 : 0;
}

int message_destroy_many(struct task *t, struct message_destroy_many *a)
{
	DB_SCOPE(t);
	for (size_t i = 0; i < a->messages.n; i++) {
		struct message_row *m = db_get(t, message, a->messages.v[i]);
		if (!m || db_delete(t, &m->row) < 0)
			return -1;
	}
	return db_commit(t);
}

int message_destroy(struct task *t, struct message_destroy *a)
{
	DB_SCOPE(t);
	struct message_row *m = db_get(t, message, a->self);
	if (!m || db_delete(t, &m->row) < 0)
		return -1;
	return db_commit(t);
}
