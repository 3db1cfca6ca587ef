// SPDX-License-Identifier: Apache-2.0
/* generic.c -- what every view of records.def has: <view>-list and <view>-param-... */
#include "cli/cli.h"

#include "api/record.h"
#include "api/role.h"

static command_fn list, param_list, param_get, param_set, param_add, param_remove, param_clear;

const struct command commands_generic[] = {
	{ "list", list, STANDARD | FILTERS, "", "params",
	  "Lists the objects, or those that match. Filters are field=value, other-config:key=value "
	  "and tags:contains=value; params=all shows everything." },
	{ "param-list", param_list, 0, "uuid", "", "Shows all of one object." },
	{ "param-get", param_get, 0, "uuid,param-name", "param-key",
	  "Shows one field of an object, or one key of it." },
	{ "param-set", param_set, FREE, "uuid", "",
	  "Sets fields: field=value, or other-config:key=value for one key." },
	{ "param-add", param_add, FREE, "uuid,param-name", "param-key",
	  "Adds to a field: param-key=member to a set, key=value to a map." },
	{ "param-remove", param_remove, 0, "uuid,param-name,param-key", "",
	  "Removes a member of a set or a key of a map." },
	{ "param-clear", param_clear, 0, "uuid,param-name", "", "Empties a set or a map." },
	{ 0 },
};

/* ---- showing ---- */

static int own_filters(struct cli *c, struct filters *f)
{
	struct list own = list_split(c->t, c->view->filters, ',');
	for (size_t i = 0; i < own.n; i++) {
		struct list halves = list_split(c->t, own.v[i], '=');
		if (filter_add(c, c->view, halves.v[0], halves.v[1], f) < 0)
			return -1;
	}
	return select_filters(c, c->view, f);
}

static int check_seen(struct cli *c)
{
	return role_check_sees(c->t, c->view->class, c->view->class->name);
}

static int list(struct cli *c)
{
	struct columns columns;
	struct filters filters = { 0 };
	if (check_seen(c) < 0 ||
	    select_columns(c, c->view, "params", c->view->defaults, &columns) < 0 ||
	    own_filters(c, &filters) < 0)
		return -1;

	struct row **rows = filters_candidates(c->t, c->view, &filters);
	for (; *rows && !thin_gone(c->thin); rows++) {
		struct task *scratch = task_new(c->t, c->t->name);
		if (filters_match(scratch, &filters, *rows))
			cli_record(c, &columns, *rows);
		talloc_free(scratch);
	}
	return 0;
}

static struct row *object(struct cli *c)
{
	return check_seen(c) < 0 ? NULL : cli_object_row(c, c->view->class, "uuid");
}

static const struct column *named(struct cli *c, const char *name)
{
	const struct column *k = view_column(c->view, name);
	return k ? k : cli_fail_ptr(c, "Unknown field '%s'", name);
}

static int param_list(struct cli *c)
{
	struct columns all;
	struct row *row = object(c);
	if (!row || select_columns(c, c->view, "", "all", &all) < 0)
		return -1;
	all.all = false; /* of one object, everything is worked out */
	cli_record(c, &all, row);
	return 0;
}

static int param_get(struct cli *c)
{
	const struct column *k = named(c, cli_arg(c, "param-name"));
	const char *key = cli_arg(c, "param-key");
	struct row *row = k ? object(c) : NULL;
	if (!row)
		return -1;
	const struct field *f = column_field(c->t, c->view, k);
	if (!key || !f || !field_is_map(f)) { /* XenServer passes the key over, too */
		cli_value(c, column_text(c->t, k, row));
		return 0;
	}
	struct map map = { 0 };
	column_map(c->t, k, row, &map); /* of an object that is not there yet it is empty */
	const char *value = map_get(&map, key);
	if (!value)
		return cli_fail(c, "Key %s not found in map", key);
	cli_value(c, value);
	return 0;
}

/* ---- setting ---- */

/* A field as param-... may set it: where the column's path ends. */
struct target {
	const struct column *column;
	const struct class *class;
	const char *ref;
	const struct field *field;
};

static int find_target(struct cli *c, const struct row *row, const char *name, struct target *ret)
{
	const struct column *k = named(c, name);
	if (!k)
		return -1;
	if (!column_is_writable(k) || !k->path)
		return cli_fail(c, "Field '%s' is read only", name);
	struct cell at = column_cell(c->t, k, row);
	if (!at.row)
		return cli_fail(c, "Field '%s' belongs to an object that is not there", name);
	*ret = (struct target){ k, at.row->class, at.row->ref, at.field };
	return 0;
}

/* An object is typed as its uuid, "" for none; a number may have a unit; words of an enumeration
 * may have blanks.  NULL: failed. */
static const char *stored_form(struct cli *c, const struct target *to, const char *typed)
{
	const struct class *class = model_class(to->field->of);
	int64_t number;
	switch (to->field->kind) {
	case REF:
		if (!*typed || streq(typed, "<not in database>"))
			return NULL_REF;
		if (!class)
			return fail_ptr(c->t, UUID_INVALID, to->field->of, typed);
		struct row *row = db_by_uuid_row(c->t, class, typed);
		return row ? row->ref : NULL;
	case INT:
		return text_size(typed, &number) ? str(c->t, "%lld", (long long)number) : typed;
	case ENUM:
		return text_swap(c->t, typed, ' ', '_');
	default:
		return typed;
	}
}

static int set_key(struct cli *c, const struct target *to, const char *key, const char *value)
{
	if (!field_is_map(to->field))
		return cli_fail(c, "Field '%s' is not a map", to->column->name);
	if (record_map_remove(c->t, to->class, to->ref, to->field->name, key) < 0)
		return -1;
	return record_map_add(c->t, to->class, to->ref, to->field->name, key, value);
}

/* Scripts set what XenServer has and we have not to what it is anyhow. */
static int keep(struct cli *c, const struct target *to, const char *value)
{
	const struct row *row = db_get_row(c->t, to->class, to->ref);
	if (!row)
		return -1;
	return streq(record_text(c->t, row, to->field), value)
		       ? 0
		       : fail(c->t, VALUE_NOT_SUPPORTED, to->column->name, value,
			      "the field cannot be changed here");
}

static int set_whole(struct cli *c, const struct target *to, const char *typed)
{
	if (field_is_set(to->field) || field_is_map(to->field))
		return cli_fail(c,
				"Field '%s' has several values: use param-add, param-remove and "
				"param-clear, or %s:key=value",
				to->column->name, to->column->name);
	const char *value = stored_form(c, to, typed);
	if (!value)
		return -1;
	if (!record_is_settable(to->class, to->field))
		return keep(c, to, value);
	return record_set(c->t, to->class, to->ref, to->field->name, value);
}

static int set_one(struct cli *c, const struct row *row, const struct pair *a)
{
	const char *colon = strchr(a->key, ':');
	const char *name = colon ? talloc_strndup(c->t, a->key, (size_t)(colon - a->key)) : a->key;
	struct target to;
	if (find_target(c, row, name, &to) < 0)
		return -1;
	return colon ? set_key(c, &to, colon + 1, a->value) : set_whole(c, &to, a->value);
}

/* All or none. */
static int param_set(struct cli *c)
{
	DB_SCOPE(c->t);
	struct row *row = object(c);
	if (!row)
		return -1;
	for (size_t i = 0; i < c->args.n; i++)
		if (!cli_takes(c, c->args.v[i].key) && set_one(c, row, &c->args.v[i]) < 0)
			return -1;
	return db_commit(c->t);
}

/* The field that param-name= names, of the object that uuid= names; it holds several values. */
static int several(struct cli *c, struct target *ret)
{
	struct row *row = object(c);
	if (!row || find_target(c, row, cli_arg(c, "param-name"), ret) < 0)
		return -1;
	if (field_is_set(ret->field) || field_is_map(ret->field))
		return 0;
	return cli_fail(c, "Field '%s' is neither a set nor a map", ret->column->name);
}

static int add_pairs(struct cli *c, const struct target *to)
{
	bool added = false;
	for (size_t i = 0; i < c->args.n; i++) {
		const struct pair *a = &c->args.v[i];
		if (cli_takes(c, a->key))
			continue;
		if (record_map_add(c->t, to->class, to->ref, to->field->name, a->key, a->value) < 0)
			return -1;
		added = true;
	}
	return added ? 0 : cli_fail(c, "Field '%s' is a map: give key=value", to->column->name);
}

static int param_add(struct cli *c)
{
	struct target to;
	DB_SCOPE(c->t);
	if (several(c, &to) < 0)
		return -1;
	const char *key = cli_arg(c, "param-key");
	int result;
	if (field_is_map(to.field))
		result = add_pairs(c, &to);
	else if (!key)
		result = cli_fail(c, "Required parameter not found: param-key.");
	else
		result = record_set_add(c->t, to.class, to.ref, to.field->name, key);
	return result < 0 ? -1 : db_commit(c->t);
}

static int param_remove(struct cli *c)
{
	struct target to;
	if (several(c, &to) < 0)
		return -1;
	const char *key = cli_arg(c, "param-key");
	if (field_is_map(to.field))
		return record_map_remove(c->t, to.class, to.ref, to.field->name, key);
	return record_set_remove(c->t, to.class, to.ref, to.field->name, key);
}

/* What a field is when it has been cleared; NULL: that cannot be. */
static const char *empty_form(const struct field *f)
{
	if (field_is_map(f))
		return "{}";
	if (field_is_set(f))
		return "[]";
	return f->kind == STRING ? "" : f->kind == REF ? NULL_REF : NULL;
}

static int param_clear(struct cli *c)
{
	struct target to;
	struct row *row = object(c);
	if (!row || find_target(c, row, cli_arg(c, "param-name"), &to) < 0)
		return -1;
	const char *empty = empty_form(to.field);
	if (!empty)
		return cli_fail(c, "Field '%s' cannot be empty", to.column->name);
	return record_set(c->t, to.class, to.ref, to.field->name, empty);
}
