// SPDX-License-Identifier: Apache-2.0
/* select.c -- which objects a command is about, and which of their columns are wanted.
 *
 *     vm-shutdown vm=web                       by name or uuid
 *     vm-shutdown power-state=running --multiple    by columns
 *     snapshot-list snapshot-of=<uuid> tags:contains=nightly other-config:key=value */
#include "cli/cli.h"

/* ---- columns ---- */

static bool wanted(const struct column *c, const struct list *names, bool all)
{
	return all ? !(c->marks & UNSEEN) : list_has(names, c->name);
}

int select_columns(struct cli *c, const struct view *v, const char *param, const char *defaults,
		   struct columns *ret)
{
	const char *given = cli_arg(c, param);
	struct list names = list_split(c->t, given ? given : defaults, ',');
	struct columns chosen = { .all = list_has(&names, "all") };
	for (size_t i = 0; i < names.n && !chosen.all; i++)
		if (!view_column(v, names.v[i]))
			return cli_fail(c, "Unknown field '%s'", names.v[i]);

	size_t n = 0;
	while (v->columns[n].name)
		n++;
	chosen.v = talloc_array(c->t, const struct column *, n);
	for (size_t i = 0; i < n; i++)
		if (wanted(&v->columns[i], &names, chosen.all))
			chosen.v[chosen.n++] = &v->columns[i];
	*ret = chosen;
	return 0;
}

void cli_record(struct cli *c, const struct columns *columns, const struct row *row)
{
	struct task *t = task_new(c->t, c->t->name); /* a list can be long: nothing is kept */
	struct map lines = { 0 };
	size_t n = c->minimal && columns->n ? 1 : columns->n;
	const char *value = "";
	for (size_t i = 0; i < n; i++) {
		const struct column *k = columns->v[i];
		value = columns->all && k->marks & COSTLY ? "<expensive field>"
							  : column_text(t, k, row);
		map_set(t, &lines, column_label(t, k), value);
	}
	if (c->minimal && n)
		cli_value(c, value);
	else if (n)
		cli_print(c, record_layout(t, &lines));
	talloc_free(t);
}

/* ---- filters ---- */

int filter_add(struct cli *c, const struct view *v, const char *name, const char *value,
	       struct filters *f)
{
	const char *colon = strchr(name, ':');
	const char *field = colon ? talloc_strndup(c->t, name, (size_t)(colon - name)) : name;
	struct filter one = {
		.column = view_column(v, field),
		.value = value,
		.key = colon && !streq(colon, ":contains") ? colon + 1 : NULL,
		.contains = colon && streq(colon, ":contains"),
	};
	if (!one.column)
		return cli_fail(c, "Unknown field '%s'", field);
	f->v = talloc_realloc(c->t, f->v, struct filter, f->n + 1);
	f->v[f->n++] = one;
	return 0;
}

int select_filters(struct cli *c, const struct view *v, struct filters *ret)
{
	for (size_t i = 0; i < c->args.n; i++) {
		const struct pair *a = &c->args.v[i];
		bool selects = c->command->flags & VM_SELECTORS &&
			       (streq(a->key, "vm") || streq(a->key, "multiple"));
		if (selects || cli_takes(c, a->key))
			continue;
		if (filter_add(c, v, a->key, a->value, ret) < 0)
			return -1;
	}
	return 0;
}

static bool is_equal(struct task *t, const struct filter *f, const struct row *row)
{
	struct list set;
	struct map map;
	if (f->contains)
		return column_set(t, f->column, row, &set) && list_has(&set, f->value);
	if (!f->key)
		return streq(column_text(t, f->column, row), f->value);
	if (!column_map(t, f->column, row, &map))
		return false;
	const char *value = map_get(&map, f->key);
	return value && streq(value, f->value);
}

bool filters_match(struct task *t, const struct filters *filters, const struct row *row)
{
	for (size_t i = 0; i < filters->n; i++)
		if (is_equal(t, &filters->v[i], row) == filters->v[i].differs)
			return false;
	return true;
}

/* The field that a filter wants to be just its value; NULL: it is not so simple. */
static const struct field *plain_field(const struct view *v, const struct filter *f)
{
	const struct field *field = f->column->path ? model_field(v->class, f->column->path) : NULL;
	bool plain = !f->key && !f->contains && !f->differs && !f->column->marks;
	return plain && field && field_is_stored(field) ? field : NULL;
}

/* As the database has it: an object is typed as its uuid.  NULL: it has no such value. */
static const char *stored_value(struct task *t, const struct field *field, const char *typed)
{
	const struct class *c = field->kind == REF ? model_class(field->of) : NULL;
	if (field->kind == STRING || field->kind == BOOL)
		return typed;
	const struct row *r = c ? db_find(t, c, "uuid", typed)[0] : NULL;
	return r ? r->ref : NULL;
}

/* The database finds them quicker than we do: quickest what few objects have, a name or another object. */
struct row **filters_candidates(struct task *t, const struct view *v, const struct filters *filters)
{
	const struct field *best = NULL;
	const char *value = NULL;
	for (size_t i = 0; i < filters->n; i++) {
		const struct field *field = plain_field(v, &filters->v[i]);
		const char *stored = field ? stored_value(t, field, filters->v[i].value) : NULL;
		if (stored && (!best || best->kind == BOOL)) {
			best = field;
			value = stored;
		}
	}
	return db_find(t, v->class, best ? best->name : NULL, value);
}

/* ---- VMs ---- */

/* vm= is a uuid or a name. */
static struct row **vm_candidates(struct cli *c, const struct view *v,
				  const struct filters *filters)
{
	const char *called = cli_arg(c, "vm");
	if (!called)
		return filters_candidates(c->t, v, filters);
	struct row **found = db_find(c->t, &class_VM, "uuid", called);
	return *found ? found : db_find(c->t, &class_VM, "name_label", called);
}

static bool is_selectable(struct cli *c, const struct VM_row *vm)
{
	return !vm->is_control_domain && (!vm->is_a_template || c->command->flags & TEMPLATES_TOO);
}

/* All that are selected, NULL ended; NULL with the failure when that is none or too many. */
static struct VM_row **select_vms(struct cli *c)
{
	const struct view *view = view_find("vm");
	struct filters filters = { 0 };
	if (select_filters(c, view, &filters) < 0)
		return NULL;

	struct row **rows = vm_candidates(c, view, &filters);
	size_t n = 0;
	for (size_t i = 0; rows[i]; i++) {
		const struct VM_row *vm = (const struct VM_row *)rows[i];
		if (is_selectable(c, vm) && filters_match(c->t, &filters, rows[i]))
			rows[n++] = rows[i];
	}
	rows[n] = NULL;
	bool multiple = false;
	if (cli_bool(c, "multiple", &multiple) < 0)
		return NULL;
	if (n == 0)
		return cli_fail_ptr(c, "No matching VMs found");
	if (n > 1 && c->command->flags & ONE_VM)
		return cli_fail_ptr(c, "Operation can only be performed on one VM at a time");
	if (n > 1 && !multiple)
		return cli_fail_ptr(c, "Multiple matches VMs found. --multiple required to "
				       "complete the operation");
	return (struct VM_row **)rows;
}

int for_vms(struct cli *c, int (*op)(struct cli *, struct VM_row *))
{
	struct VM_row **vms = select_vms(c);
	if (!vms)
		return -1;
	if (!vms[1])
		return op(c, vms[0]);

	int result = 0;
	for (; *vms && !thin_gone(c->thin); vms++) {
		if (op(c, *vms) == 0)
			continue;
		thin_error(c->thin, str(c->t, "operation failed on %s: %s", (*vms)->uuid,
					text_swap(c->t, cli_failure(c), '\n', ' ')));
		cli_forgive(c);
		result = -1;
	}
	return result;
}

/* ---- hosts and storage ---- */

struct host_row *select_host(struct cli *c, const char *value)
{
	struct host_row *found = NULL;
	DB_ALL (c->t, host, host) {
		if (value && !streq(host->uuid, value) && !streq(host->name_label, value))
			continue;
		if (found)
			return cli_fail_ptr(c, value ? "Multiple matching hosts found"
						     : "There are several hosts: name one");
		found = host;
	}
	return found ? found : cli_fail_ptr(c, "No matching hosts found");
}

int select_sr(struct cli *c, struct SR_row **ret)
{
	const char *uuid = cli_arg(c, "sr-uuid"), *name = cli_arg(c, "sr-name-label");
	*ret = NULL;
	if (uuid) {
		*ret = db_by_uuid(c->t, SR, uuid);
		return *ret ? 0 : -1;
	}
	if (!name)
		return 0;
	struct row **found = db_find(c->t, &class_SR, "name_label", name);
	if (!found[0])
		return cli_fail(c, "No SR is called '%s'", name);
	if (found[1])
		return cli_fail(c, "Several SRs are called '%s': use sr-uuid=", name);
	*ret = (struct SR_row *)found[0];
	return 0;
}
