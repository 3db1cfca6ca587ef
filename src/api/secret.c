// SPDX-License-Identifier: Apache-2.0
/* secret.c -- texts that only some may read: READERS in model/roles.def. */
#include "api/call.h"
#include "base/task.h"
#include "db/db.h"

int secret_create(struct task *t, struct secret_create *a)
{
	DB_SCOPE(t);
	struct secret_row *s = row_new(t, secret);
	s->value = a->value;
	s->other_config = a->other_config;
	if (db_insert(t, &s->row) < 0)
		return -1;
	a->result = s->row.ref;
	return db_commit(t);
}

int secret_destroy(struct task *t, struct secret_destroy *a)
{
	DB_SCOPE(t);
	struct secret_row *s = db_get(t, secret, a->self);
	if (!s || db_delete(t, &s->row) < 0)
		return -1;
	return db_commit(t);
}
