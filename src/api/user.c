// SPDX-License-Identifier: Apache-2.0
#include "api/user.h"

#include "base/task.h"
#include "db/db.h"

static struct row *root(struct task *t)
{
	return db_find(t, &class_user, "short_name", "root")[0];
}

const char *user_root(struct task *t)
{
	const struct row *r = root(t);
	return r ? r->ref : NULL_REF;
}

int user_open(struct task *t)
{
	DB_SCOPE(t);
	if (root(t))
		return 0;
	struct user_row *u = row_new(t, user);
	u->short_name = "root";
	u->fullname = "superuser";
	return db_insert(t, &u->row) < 0 ? -1 : db_commit(t);
}
