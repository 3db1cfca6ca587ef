// SPDX-License-Identifier: Apache-2.0
#include "api/metadata.h"

#include <assert.h>

#include "base/json.h"
#include "base/task.h"

enum { DEPTH_LIMIT = 8 };

/* ---- names ---- */

static const char *const groups[] = { "name_", "memory_", "VCPUs_", "actions_", "PV_", "HVM_" };

static const char *database_name(struct task *t, const char *field)
{
	for (size_t i = 0; i < COUNT(groups); i++)
		if (starts_with(field, groups[i]))
			return str(t, "%s_%s", groups[i], field + strlen(groups[i]));
	return field;
}

static const char *field_name(struct task *t, const char *key)
{
	for (size_t i = 0; i < COUNT(groups); i++) {
		const char *prefix = str(t, "%s_", groups[i]);
		if (starts_with(key, prefix))
			return str(t, "%s%s", groups[i], key + strlen(prefix));
	}
	return key;
}

/* ---- writing ---- */

static char *quoted(struct task *t, const char *s)
{
	char *out = talloc_array(t, char, 2 * strlen(s) + 3), *p = out;
	*p++ = '\'';
	for (; *s; s++) {
		if (*s == '\'' || *s == '\\')
			*p++ = '\\';
		*p++ = *s;
	}
	*p++ = '\'';
	*p = 0;
	return out;
}

static char *list_value(struct task *t, const struct list *l)
{
	char *s = talloc_strdup(t, "(");
	for (size_t i = 0; i < l->n; i++)
		s = talloc_asprintf_append(s, "%s%s", i ? " " : "", quoted(t, l->v[i]));
	return talloc_asprintf_append(s, ")");
}

static char *map_value(struct task *t, const struct map *m)
{
	char *s = talloc_strdup(t, "(");
	for (size_t i = 0; i < m->n; i++)
		s = talloc_asprintf_append(s, "%s(%s %s)", i ? " " : "", quoted(t, m->v[i].key),
					   quoted(t, m->v[i].value));
	return talloc_asprintf_append(s, ")");
}

static char *value(struct task *t, const struct row *r, const struct field *f)
{
	if (field_is_set(f))
		return list_value(t, field_list(r, f));
	if (field_is_map(f))
		return map_value(t, field_map(r, f));
	return quoted(t, field_text(t, r, f));
}

char *metadata_write(struct task *t, const struct row *r)
{
	char *s = str(t, "(('ref' %s)", quoted(t, r->ref));
	for (const struct field *f = r->class->fields; f->name; f++)
		/* A snapshot's own metadata would nest without end. */
		if (field_is_stored(f) && !streq(f->name, "snapshot_metadata"))
			s = talloc_asprintf_append(s, " (%s %s)",
						   quoted(t, database_name(t, f->name)),
						   value(t, r, f));
	return talloc_asprintf_append(s, ")");
}

/* ---- reading: a tree of atoms and lists ---- */

struct node {
	const char *atom; /* NULL: a list */
	size_t n;
	struct node *v;
};

struct reader {
	struct task *task;
	const char *at;
	int depth;
};

static int malformed(struct reader *r)
{
	return fail(r->task, INTERNAL_ERROR,
		    str(r->task, "snapshot metadata malformed at \"%.20s\"", r->at));
}

static void skip_space(struct reader *r)
{
	while (*r->at == ' ' || *r->at == '\n')
		r->at++;
}

static int read_atom(struct reader *r, struct node *ret)
{
	char *out = talloc_array(r->task, char, strlen(r->at) + 1), *p = out;
	for (r->at++; *r->at != '\''; r->at++) {
		if (*r->at == '\\')
			r->at++;
		if (!*r->at)
			return malformed(r);
		*p++ = *r->at;
	}
	r->at++;
	*p = 0;
	*ret = (struct node){ .atom = talloc_strdup(r->task, out) };
	talloc_free(out);
	return 0;
}

static int read_node(struct reader *r, struct node *ret);

static int read_list(struct reader *r, struct node *ret)
{
	struct node list = { 0 };
	if (++r->depth > DEPTH_LIMIT)
		return malformed(r);
	r->at++;
	for (skip_space(r); *r->at != ')'; skip_space(r)) {
		list.v = talloc_realloc(r->task, list.v, struct node, list.n + 1);
		if (read_node(r, &list.v[list.n]) < 0)
			return -1;
		list.n++;
	}
	r->at++;
	r->depth--;
	*ret = list;
	return 0;
}

static int read_node(struct reader *r, struct node *ret)
{
	skip_space(r);
	if (*r->at == '\'')
		return read_atom(r, ret);
	if (*r->at == '(')
		return read_list(r, ret);
	return malformed(r);
}

/* A value as field_parse() reads it. */
static const char *node_text(struct reader *r, const struct node *n, const struct field *f)
{
	struct list l = { 0 };
	struct map m = { 0 };
	if (!field_is_set(f) && !field_is_map(f))
		return n->atom;
	if (n->atom)
		return NULL;
	for (size_t i = 0; i < n->n; i++) {
		const struct node *c = &n->v[i];
		if (field_is_set(f) && c->atom)
			list_add(r->task, &l, c->atom);
		else if (field_is_map(f) && c->n == 2 && c->v[0].atom && c->v[1].atom)
			map_set(r->task, &m, c->v[0].atom, c->v[1].atom);
		else
			return NULL;
	}
	return field_is_set(f) ? list_to_json(r->task, &l) : map_to_json(r->task, &m);
}

static bool named(const char *const *names, const char *name)
{
	for (; *names; names++)
		if (streq(*names, name))
			return true;
	return false;
}

static int read_field(struct reader *r, const struct node *n, struct row *row,
		      const char *const *except)
{
	if (n->atom || n->n != 2 || !n->v[0].atom)
		return malformed(r);
	const struct field *f = model_field(row->class, field_name(r->task, n->v[0].atom));
	if (!f || !field_is_stored(f) || named(except, f->name))
		return 0;
	const char *text = node_text(r, &n->v[1], f);
	return text ? field_parse(r->task, row, f, text) : malformed(r);
}

int metadata_read(struct task *t, const char *text, struct row *row, const char *const *except)
{
	struct reader r = { .task = t, .at = text };
	struct node top;
	if (read_node(&r, &top) < 0)
		return -1;
	for (size_t i = 0; i < top.n; i++)
		if (read_field(&r, &top.v[i], row, except) < 0)
			return -1;
	return 0;
}

const char *metadata_value(struct task *t, const char *text, const char *field)
{
	struct reader r = { .task = t, .at = text };
	struct node top;
	if (read_node(&r, &top) < 0) {
		task_forgive(t);
		return "";
	}
	for (size_t i = 0; i < top.n; i++) {
		const struct node *n = &top.v[i];
		if (n->n == 2 && n->v[0].atom && n->v[1].atom &&
		    streq(field_name(t, n->v[0].atom), field))
			return n->v[1].atom;
	}
	return "";
}
