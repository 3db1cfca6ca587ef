// SPDX-License-Identifier: Apache-2.0
#include "api/message.h"

#include "api/call.h"
#include "base/task.h"
#include "db/db.h"

int message_create(struct task *t, const char *name, int64_t priority, enum cls class,
		   const char *obj_uuid, const char *body)
{
	DB_SCOPE(t);
	struct message_row *m = row_new(t, message);
	m->name = name;
	m->priority = priority;
	m->cls = class;
	m->obj_uuid = obj_uuid;
	m->timestamp = time_now(m);
	m->body = body;
	if (db_insert(t, &m->row) < 0)
		return -1;
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
