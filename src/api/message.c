// SPDX-License-Identifier: Apache-2.0
#include "api/message.h"

#include "api/call.h"
#include "base/task.h"
#include "db/db.h"

enum {
	KEPT = 10000, /* as many as XenServer keeps */
	AT_ONCE = 500,
};

int message_create(struct task *t, struct message_create *a)
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

int message_tell(struct task *t, const char *name, int64_t priority, enum cls class,
		 const char *obj_uuid, const char *body)
{
	return message_create(t, &(struct message_create){ .name = name,
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

/* A transaction's worth at a time. */
int messages_collect(struct task *t)
{
	int64_t over = db_count(&class_message) - KEPT;
	if (over <= 0)
		return 0;
	struct list refs = db_refs(t, &class_message, NULL, NULL);
	DB_SCOPE(t);
	for (int64_t i = 0; i < over && i < AT_ONCE && i < (int64_t)refs.n; i++) {
		const struct row *m = db_seek_row(t, &class_message, refs.v[i]);
		if (m && db_delete(t, m) < 0)
			return -1;
	}
	return db_commit(t);
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
