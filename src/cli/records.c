// SPDX-License-Identifier: Apache-2.0
#include "cli/records.h"

#include <assert.h>
#include <ctype.h>

#include "api/record.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"

#define ABSENT "<not in database>"
#define DANGLING "<invalid reference>"

/* ---- columns that no field holds ---- */

/* The positions below n that no device of the VM has. */
static char *free_positions(struct task *t, const struct list *used, int n)
{
	struct list open = { 0 };
	for (int i = 0; i < n; i++) {
		const char *position = str(t, "%d", i);
		if (!list_has(used, position))
			list_add(t, &open, position);
	}
	return list_join(t, &open, "; ");
}

static char *free_VBD_devices(struct task *t, const struct row *vm)
{
	struct list used = { 0 };
	DB_EACH (t, VBD, vbd, "VM", vm->ref)
		list_add(t, &used, vbd->userdevice);
	return free_positions(t, &used, 16);
}

static char *free_VIF_devices(struct task *t, const struct row *vm)
{
	struct list used = { 0 };
	DB_EACH (t, VIF, vif, "VM", vm->ref)
		list_add(t, &used, vif->device);
	return free_positions(t, &used, 7);
}

static char *possible_hosts(struct task *t, const struct row *vm)
{
	struct list hosts = { 0 };
	(void)vm;
	DB_ALL (t, host, host)
		list_add(t, &hosts, host->uuid);
	return list_join(t, &hosts, "; ");
}

static char *last_boot_record(struct task *t, const struct row *vm)
{
	return str(t, "'%s'", ((const struct VM_row *)vm)->last_booted_record);
}

static char *always_true(struct task *t, const struct row *row)
{
	(void)row;
	return talloc_strdup(t, "true");
}

static char *nothing(struct task *t, const struct row *row)
{
	(void)row;
	return talloc_strdup(t, "");
}

static char *VBD_attachable(struct task *t, const struct row *row)
{
	const struct VBD_row *vbd = (const struct VBD_row *)row;
	const struct VDI_row *vdi = db_seek(t, VDI, vbd->VDI);
	return talloc_strdup(t, vbd->empty || (vdi && !vdi->missing) ? "true" : "false");
}

/* The one host that reaches it; storage that several reach belongs to none. */
static char *SR_host(struct task *t, const struct row *sr)
{
	const char *name = ABSENT;
	size_t n = 0;
	DB_EACH (t, PBD, pbd, "SR", sr->ref) {
		const struct host_row *host = db_seek(t, host, pbd->host);
		name = host ? host->name_label : DANGLING;
		n++;
	}
	return talloc_strdup(t, n > 1 ? "<shared>" : name);
}

static char *SR_types(struct task *t, const struct row *pool)
{
	struct list types = { 0 };
	(void)pool;
	DB_ALL (t, SR, sr)
		list_put(t, &types, sr->type);
	return list_join(t, &types, "; ");
}

/* ---- the tables ---- */

#define TABLE(class) static const struct column columns_##class[] = {
#define COLUMN(name, tag, path, marks) { name, tag, path, NULL, marks },
#define WORKED(name, tag, function, marks) { name, tag, NULL, function, marks },
/* clang-format off */
#define END { 0 } };
/* clang-format on */
#define VIEW(name, class, defaults, filters)
#include "cli/records.def"

const struct view views[] = {
#define TABLE(class)
#define COLUMN(name, tag, path, marks)
#define WORKED(name, tag, function, marks)
#define END
#define VIEW(name, class, defaults, filters)                                                       \
	{ #name, &class_##class, columns_##class, defaults, filters },
#include "cli/records.def"
	{ 0 },
};

const struct view *view_find(const char *name)
{
	for (const struct view *v = views; v->name; v++)
		if (streq(v->name, name))
			return v;
	return NULL;
}

const struct column *view_column(const struct view *v, const char *name)
{
	for (const struct column *c = v->columns; c->name; c++)
		if (streq(c->name, name))
			return c;
	return NULL;
}

bool column_is_writable(const struct column *c)
{
	return ends_with(c->tag, "RW)");
}

/* ---- values ---- */

/* Follows the reference that the cell holds. */
static struct cell follow(struct task *t, struct cell at)
{
	const struct class *class = model_class(at.field->of);
	const char *ref = record_text(t, at.row, at.field);
	const struct row *row = class ? db_seek_row(t, class, ref) : NULL;
	return (struct cell){
		.row = row,
		.absent = class && !ref_is_null(ref) ? DANGLING : ABSENT,
	};
}

struct cell column_cell(struct task *t, const struct column *c, const struct row *row)
{
	struct cell at = { .row = row };
	struct list steps = list_split(t, c->path, '.');
	for (size_t i = 0; i < steps.n; i++) {
		if (i > 0)
			at = follow(t, at);
		if (!at.row)
			return at;
		at.field = model_field(at.row->class, steps.v[i]);
		assert(at.field); /* the table is wrong: a unit test walks all of it */
	}
	return at;
}

const struct field *column_field(struct task *t, const struct view *v, const struct column *c)
{
	const struct class *class = v->class;
	const struct field *f = NULL;
	struct list steps = list_split(t, c->path ? c->path : "", '.');
	for (size_t i = 0; c->path && i < steps.n; i++) {
		f = model_field(class, steps.v[i]);
		class = model_class(f->of);
	}
	return f;
}

static bool refers(enum kind kind)
{
	return kind == REF || kind == REF_SET || kind == REF_MAP;
}

static const char *uuid_of(struct task *t, const char *class_name, const char *ref)
{
	const struct class *class = model_class(class_name);
	if (!class || ref_is_null(ref))
		return ABSENT;
	const struct row *row = db_seek_row(t, class, ref);
	return row ? row_uuid(row) : DANGLING;
}

const char *with_marks(struct task *t, const char *text, int marks)
{
	char *s = talloc_strdup(t, text);
	for (char *p = s; *p; p++) {
		if (marks & LOWER)
			*p = (char)tolower((unsigned char)*p);
		if (marks & CAPITAL)
			*p = *p == '_' ? ' ' : p == s ? (char)toupper((unsigned char)*p) : *p;
	}
	return s;
}

static const char *float_text(struct task *t, const char *text)
{
	return str(t, "%.3f", strtod(text, NULL));
}

static const char *scalar(struct task *t, const struct field *f, const char *text, int marks)
{
	if (refers(f->kind))
		return uuid_of(t, f->of, text);
	if (f->kind == FLOAT)
		return float_text(t, text);
	return marks & (LOWER | CAPITAL) ? with_marks(t, text, marks) : text;
}

/* current_operations is a map from task to operation; only the operations are shown. */
static struct list operations(struct task *t, const struct cell *at)
{
	struct map running;
	struct list l = { 0 };
	map_from_json(t, record_text(t, at->row, at->field), &running);
	for (size_t i = 0; i < running.n; i++)
		list_add(t, &l, running.v[i].value);
	return l;
}

static bool is_set(const struct cell *at)
{
	return at->row && (field_is_set(at->field) || at->field->kind == ENUM_MAP);
}

static struct list cell_set(struct task *t, const struct cell *at, int marks)
{
	if (at->field->kind == ENUM_MAP)
		return operations(t, at);
	struct list stored = record_list(t, at->row, at->field), l = { 0 };
	for (size_t i = 0; i < stored.n; i++)
		list_add(t, &l, scalar(t, at->field, stored.v[i], marks));
	return l;
}

static bool is_map(const struct cell *at)
{
	return at->row && field_is_map(at->field) && at->field->kind != ENUM_MAP;
}

static struct map cell_map(struct task *t, const struct cell *at)
{
	struct map stored, m = { 0 };
	map_from_json(t, record_text(t, at->row, at->field), &stored);
	for (size_t i = 0; i < stored.n; i++)
		map_set(t, &m, stored.v[i].key, scalar(t, at->field, stored.v[i].value, 0));
	return m;
}

bool column_set(struct task *t, const struct column *c, const struct row *row, struct list *ret)
{
	struct cell at = { 0 };
	if (c->path)
		at = column_cell(t, c, row);
	if (!is_set(&at))
		return false;
	*ret = cell_set(t, &at, c->marks);
	return true;
}

bool column_map(struct task *t, const struct column *c, const struct row *row, struct map *ret)
{
	struct cell at = { 0 };
	if (c->path)
		at = column_cell(t, c, row);
	if (!is_map(&at))
		return false;
	*ret = cell_map(t, &at);
	return true;
}

static const char *map_text(struct task *t, const struct map *m)
{
	char *s = talloc_strdup(t, "");
	for (size_t i = 0; i < m->n; i++)
		s = talloc_asprintf_append(s, "%s%s: %s", i ? "; " : "", m->v[i].key,
					   m->v[i].value);
	return s;
}

const char *column_text(struct task *t, const struct column *c, const struct row *row)
{
	if (!c->path)
		return c->worked(t, row);
	struct cell at = column_cell(t, c, row);
	if (!at.row)
		return at.absent;
	if (is_set(&at)) {
		struct list l = cell_set(t, &at, c->marks);
		return list_join(t, &l, c->marks & COMMA ? ", " : "; ");
	}
	if (is_map(&at)) {
		struct map m = cell_map(t, &at);
		return map_text(t, &m);
	}
	return scalar(t, at.field, record_text(t, at.row, at.field), c->marks);
}

/* ---- the block of lines ---- */

char *column_label(const void *ctx, const struct column *c)
{
	return str(ctx, "%s %s%s", c->name, c->tag, c->marks & DEPRECATED ? " [DEPRECATED]" : "");
}

char *record_layout(const void *ctx, const struct map *lines)
{
	size_t width = 0;
	for (size_t i = 0; i < lines->n; i++) {
		size_t n = strlen(lines->v[i].key);
		width = n > width ? n : width;
	}
	int columns = (int)width + 4;
	char *s = talloc_strdup(ctx, "");
	for (size_t i = 0; i < lines->n; i++) /* the first to the left, the others to the right */
		s = talloc_asprintf_append(s, "%*s: %s\n", i ? columns : -columns, lines->v[i].key,
					   lines->v[i].value);
	return talloc_strdup_append(s, "\n");
}
