// SPDX-License-Identifier: Apache-2.0
#include "api/role.h"

#include "api/audit.h"
#include "api/call.h"
#include "api/record.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"

static const struct {
	const char *name, *uuid, *doc;
} roles[ROLES] = {
#define ROLE(name, text, uuid, doc) { text, uuid, doc },
#include "model/roles.def"
};

static const struct {
	const struct class *class;
	enum role role;
} readers[] = {
#define READERS(class, role) { &class_##class, role_##role },
#include "model/roles.def"
};

static const struct {
	const struct class *class;
	enum role role;
} setters[] = {
#define SETTERS(class, role) { &class_##class, role_##role },
#include "model/roles.def"
};

static const struct {
	const struct class *class;
	const char *field;
	enum role role;
} fields[] = {
#define SETTER(class, field, role) { &class_##class, #field, role_##role },
#include "model/roles.def"
};

static const struct {
	const struct class *class;
	const char *field, *key;
	enum role role;
} keys[] = {
#define KEY(class, field, key, role) { &class_##class, #field, key, role_##role },
#include "model/roles.def"
};

enum role role_named(const char *name)
{
	enum role r = 0;
	while (r < ROLES && !streq(roles[r].name, name))
		r++;
	return r;
}

const char *role_name(enum role r)
{
	return roles[r].name;
}

/* ---- of a session ---- */

/* ROLES: none at all. */
static enum role role_of(struct task *t)
{
	if (!t->session || !*t->session)
		return role_pool_admin;
	const struct session_row *s = db_seek(t, session, t->session);
	if (!s)
		return ROLES;
	return s->is_local_superuser ? role_pool_admin : role_named(s->role);
}

int role_check(struct task *t, enum role needed, const char *permission)
{
	if (role_of(t) <= needed)
		return 0;
	fail(t, RBAC_PERMISSION_DENIED, permission,
	     str(t, "The user has no role that may: it takes %s.", roles[needed].name));
	audit(t, permission, "");
	return -1;
}

/* ---- of classes ---- */

static enum role role_for_class(const struct class *c)
{
	for (size_t i = 0; i < COUNT(readers); i++)
		if (readers[i].class == c)
			return readers[i].role;
	return role_read_only;
}

bool role_sees(struct task *t, const struct class *c)
{
	enum role needed = role_for_class(c);
	return needed == role_read_only || role_of(t) <= needed;
}

int role_check_sees(struct task *t, const struct class *c, const char *permission)
{
	return role_sees(t, c) ? 0 : role_check(t, role_for_class(c), permission);
}

/* ---- of fields ---- */

static bool fits(const char *pattern, const char *key)
{
	size_t n = strlen(pattern);
	if (n && pattern[n - 1] == '*')
		return strncmp(pattern, key, n - 1) == 0;
	return streq(pattern, key);
}

static enum role role_for_field(const struct class *c, const struct field *f)
{
	for (size_t i = 0; i < COUNT(fields); i++)
		if (fields[i].class == c && streq(fields[i].field, f->name))
			return fields[i].role;
	for (size_t i = 0; i < COUNT(setters); i++)
		if (setters[i].class == c)
			return setters[i].role;
	return role_pool_admin;
}

/* Of a key that has one of its own; ROLES: it has the field's. */
static enum role role_of_key(const struct class *c, const struct field *f, const char *key)
{
	for (size_t i = 0; i < COUNT(keys); i++)
		if (keys[i].class == c && streq(keys[i].field, f->name) && fits(keys[i].key, key))
			return keys[i].role;
	return ROLES;
}

/* mine: t's role, which is not looked up for each of many keys. */
static int check_key(struct task *t, enum role mine, const struct class *c, const struct field *f,
		     const char *key)
{
	enum role own = role_of_key(c, f, key);
	enum role needed = own == ROLES ? role_for_field(c, f) : own;
	if (mine <= needed)
		return 0;
	return role_check(t, needed, str(t, "%s.set_%s/key:%s", c->name, f->name, key));
}

int role_check_key(struct task *t, const struct class *c, const struct field *f, const char *key)
{
	return check_key(t, role_of(t), c, f, key);
}

/* The keys that are in a with a value that b has not. */
static int check_keys(struct task *t, enum role mine, const struct class *c, const struct field *f,
		      const struct map *a, const struct map *b)
{
	struct map sorted = map_sorted(t, b);
	for (size_t i = 0; i < a->n; i++) {
		const char *other = map_get_sorted(&sorted, a->v[i].key);
		if (!(other && streq(other, a->v[i].value)) &&
		    check_key(t, mine, c, f, a->v[i].key) < 0)
			return -1;
	}
	return 0;
}

/* The map that the text says; false: it says none, which is told. */
static bool read_map(struct task *t, const struct field *f, const char *text, struct map *ret)
{
	if (map_from_json(t, text, ret))
		return true;
	fail(t, FIELD_TYPE_ERROR, f->name);
	return false;
}

int role_check_set(struct task *t, const struct row *r, const struct field *f, const char *text)
{
	const struct class *c = r->class;
	enum role mine = role_of(t);
	if (mine == role_pool_admin)
		return 0;
	struct map now = { 0 }, none = { 0 }, *before = field_is_map(f) ? field_map(r, f) : &none;
	if (field_is_map(f) && !read_map(t, f, text, &now))
		return -1;
	if (map_equal(&now, before))
		return role_check(t, role_for_field(c, f), str(t, "%s.set_%s", c->name, f->name));
	return check_keys(t, mine, c, f, &now, before) < 0
		       ? -1
		       : check_keys(t, mine, c, f, before, &now);
}

int role_check_made(struct task *t, const struct row *r, const struct field *f, const char *text)
{
	struct map now, *before = field_is_map(f) ? field_map(r, f) : NULL;
	if (!before)
		return 0;
	if (!read_map(t, f, text, &now))
		return -1;
	enum role mine = role_of(t);
	for (size_t i = 0; i < now.n; i++) {
		const char *key = now.v[i].key, *was = map_get(before, key);
		bool changes = !was || !streq(was, now.v[i].value);
		if (changes && role_of_key(r->class, f, key) != ROLES &&
		    check_key(t, mine, r->class, f, key) < 0)
			return -1;
	}
	return 0;
}

/* ---- as records ---- */

/* The same in every pool. */
const char *role_ref(const void *ctx, enum role r)
{
	return str(ctx, "OpaqueRef:%s", roles[r].uuid);
}

static int make(struct task *t, enum role r)
{
	struct role_row *row = db_seek(t, role, role_ref(t, r));
	if (row)
		return 0;
	row = row_new(t, role);
	row->row.ref = role_ref(row, r);
	row->uuid = roles[r].uuid;
	row->name_label = roles[r].name;
	row->name_description = roles[r].doc;
	for (enum role weaker = r + 1; weaker < ROLES; weaker++)
		list_add(row, &row->subroles, role_ref(t, weaker));
	return db_insert(t, &row->row);
}

int roles_open(struct task *t)
{
	DB_SCOPE(t);
	for (enum role r = 0; r < ROLES; r++)
		if (make(t, r) < 0)
			return -1;
	return db_commit(t);
}

static void add_setters(const void *ctx, struct list *to, const struct class *c, enum role r)
{
	for (const struct field *f = c->fields; f->name; f++)
		if (record_is_settable(c, f) && role_for_field(c, f) >= r)
			list_add(ctx, to, str(ctx, "%s.set_%s", c->name, f->name));
}

struct list role_permissions(const void *ctx, enum role r)
{
	struct list names = { 0 };
	for (size_t i = 0; all_calls[i]; i++)
		if (all_calls[i]->role >= r)
			list_add(ctx, &names, all_calls[i]->name);
	for (size_t i = 0; classes[i]; i++)
		add_setters(ctx, &names, classes[i], r);
	for (size_t i = 0; i < COUNT(keys); i++)
		if (keys[i].role >= r)
			list_add(ctx, &names,
				 str(ctx, "%s.set_%s/key:%s", keys[i].class->name, keys[i].field,
				     keys[i].key));
	return names;
}

int role_get_permissions_name_label(struct task *t, struct role_get_permissions_name_label *a)
{
	const struct role_row *row = db_get(t, role, a->self);
	if (!row)
		return -1;
	a->result = role_permissions(t, role_named(row->name_label));
	return 0;
}

int role_get_by_permission_name_label(struct task *t, struct role_get_by_permission_name_label *a)
{
	for (enum role r = 0; r < ROLES; r++) {
		struct list names = role_permissions(t, r);
		if (list_has(&names, a->label))
			list_add(t, &a->result, role_ref(t, r));
	}
	return 0;
}
