// SPDX-License-Identifier: Apache-2.0
#include "api/subject.h"

#include "api/call.h"
#include "base/task.h"
#include "db/db.h"

const struct subject_row *subject_of(struct task *t, const char *user)
{
	return (struct subject_row *)db_find(t, &class_subject, "subject_identifier", user)[0];
}

enum role subject_role(struct task *t, const struct subject_row *s)
{
	enum role strongest = ROLES;
	for (size_t i = 0; i < s->roles.n; i++) {
		const struct role_row *row = db_seek(t, role, s->roles.v[i]);
		enum role r = row ? role_named(row->name_label) : ROLES;
		strongest = r < strongest ? r : strongest;
	}
	return strongest;
}

/* What it may now, a session that began before does not know. */
static int end_sessions(struct task *t, const char *ref)
{
	DB_EACH (t, session, s, "subject", ref)
		if (db_delete(t, &s->row) < 0)
			return -1;
	return 0;
}

int subject_create(struct task *t, struct subject_create *a)
{
	DB_SCOPE(t);
	if (!*a->subject_identifier || streq(a->subject_identifier, "root"))
		return fail(t, INVALID_VALUE, "subject_identifier", a->subject_identifier);
	if (subject_of(t, a->subject_identifier))
		return fail(t, SUBJECT_ALREADY_EXISTS);
	struct subject_row *s = row_new(t, subject);
	s->subject_identifier = a->subject_identifier;
	s->other_config = map_copy(s, &a->other_config);
	list_add(s, &s->roles, role_ref(t, role_pool_admin));
	if (db_insert(t, &s->row) < 0)
		return -1;
	a->result = s->row.ref;
	return db_commit(t);
}

int subject_destroy(struct task *t, struct subject_destroy *a)
{
	DB_SCOPE(t);
	struct subject_row *s = db_get(t, subject, a->self);
	if (!s || end_sessions(t, a->self) < 0 || db_delete(t, &s->row) < 0)
		return -1;
	return db_commit(t);
}

static int put(struct task *t, struct subject_row *s)
{
	if (end_sessions(t, s->row.ref) < 0 || db_put(t, &s->row) < 0)
		return -1;
	return db_commit(t);
}

int subject_add_to_roles(struct task *t, struct subject_add_to_roles *a)
{
	DB_SCOPE(t);
	struct subject_row *s = db_get(t, subject, a->self);
	if (!s || !db_get(t, role, a->role))
		return -1;
	if (list_has(&s->roles, a->role))
		return fail(t, ROLE_ALREADY_EXISTS);
	list_add(s, &s->roles, a->role);
	return put(t, s);
}

int subject_remove_from_roles(struct task *t, struct subject_remove_from_roles *a)
{
	DB_SCOPE(t);
	struct subject_row *s = db_get(t, subject, a->self);
	if (!s)
		return -1;
	if (!list_has(&s->roles, a->role))
		return fail(t, ROLE_NOT_FOUND);
	list_remove(&s->roles, a->role);
	return put(t, s);
}

int subject_get_permissions_name_label(struct task *t, struct subject_get_permissions_name_label *a)
{
	const struct subject_row *s = db_get(t, subject, a->self);
	if (!s)
		return -1;
	a->result = role_permissions(t, subject_role(t, s));
	return 0;
}
