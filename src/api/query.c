// SPDX-License-Identifier: Apache-2.0
#include "api/query.h"

#include <ctype.h>

#include "api/record.h"
#include "base/limits.h"
#include "base/task.h"

enum op { TRUE, FALSE, EQUALS, NOT, AND, OR };

struct query {
	enum op op;
	const struct field *field; /* EQUALS */
	const char *value;
	const struct query *a, *b; /* NOT: a; AND, OR: both */
};

/* ---- reading ---- */

struct reader {
	struct task *t;
	const struct class *class;
	const char *text, *at;
	int depth, terms;
};

static struct query *parse_or(struct reader *);

static struct query *bad(struct reader *r, const char *why)
{
	return fail_ptr(r->t, INVALID_VALUE, r->text,
			str(r->t, "%s at character %zu", why, (size_t)(r->at - r->text) + 1));
}

static struct query *node(struct reader *r, enum op op, const struct query *a,
			  const struct query *b)
{
	if (++r->terms > QUERY_TERMS_LIMIT)
		return bad(r, "there are too many terms");
	struct query *q = talloc_zero(r->t, struct query);
	*q = (struct query){ .op = op, .a = a, .b = b };
	return q;
}

static void skip_blanks(struct reader *r)
{
	r->at += strspn(r->at, " \t\r\n");
}

/* The word, if it is next; case does not matter. */
static bool take(struct reader *r, const char *word)
{
	skip_blanks(r);
	size_t n = strlen(word);
	if (strncasecmp(r->at, word, n) != 0 ||
	    (isalpha((unsigned char)word[0]) &&
	     (isalnum((unsigned char)r->at[n]) || r->at[n] == '_')))
		return false;
	r->at += n;
	return true;
}

static bool is_escaped(const char *p)
{
	return *p == '\\' && (p[1] == '"' || p[1] == '\\');
}

static const char *end_of_string(const char *p)
{
	while (*p && *p != '"')
		p += is_escaped(p) ? 2 : 1;
	return p;
}

/* "...", with \" and \\ in it.  NULL: it is none. */
static const char *take_string(struct reader *r)
{
	skip_blanks(r);
	if (*r->at != '"')
		return NULL;
	const char *p = r->at + 1, *end = end_of_string(p);
	char *s = talloc_array(r->t, char, (size_t)(end - p) + 1), *to = s;
	for (; p < end; p++) {
		if (is_escaped(p))
			p++;
		*to++ = *p;
	}
	*to = 0;
	if (*end != '"')
		return NULL;
	r->at = end + 1;
	return s;
}

/* name__label is name_label. */
static const struct field *find_field(struct reader *r, const char *name)
{
	char *plain = talloc_strdup(r->t, name), *to = plain;
	const struct field *f = model_field(r->class, name);
	for (const char *p = name; *p; p++)
		if (p[0] != '_' || p[1] != '_')
			*to++ = *p;
	*to = 0;
	f = f ? f : model_field(r->class, plain);
	return f && f->access != HIDDEN ? f : NULL;
}

static struct query *parse_field(struct reader *r)
{
	const char *name = take_string(r);
	const struct field *f = name ? find_field(r, name) : NULL;
	if (!f)
		return bad(r, name ? "no such field" : "a field's name is expected");
	if (!take(r, "="))
		return bad(r, "= is expected");
	const char *value = take_string(r);
	if (!value)
		return bad(r, "a value in quotes is expected");
	struct query *q = node(r, EQUALS, NULL, NULL);
	if (!q)
		return NULL;
	q->field = f;
	q->value = value;
	return q;
}

static struct query *parse_group(struct reader *r)
{
	struct query *q = parse_or(r);
	if (q && !take(r, ")"))
		return bad(r, ") is expected");
	return q;
}

static struct query *parse_not(struct reader *r);

static struct query *parse_negated(struct reader *r)
{
	struct query *q = parse_not(r);
	return q ? node(r, NOT, q, NULL) : NULL;
}

static struct query *parse_not(struct reader *r)
{
	if (++r->depth > QUERY_DEPTH_LIMIT)
		return bad(r, "nested too deeply");
	struct query *q = take(r, "not")     ? parse_negated(r)
			  : take(r, "(")     ? parse_group(r)
			  : take(r, "true")  ? node(r, TRUE, NULL, NULL)
			  : take(r, "false") ? node(r, FALSE, NULL, NULL)
			  : take(r, "field") ? parse_field(r)
					     : bad(r, "field, not, true, false or ( is expected");
	r->depth--;
	return q;
}

static struct query *parse_and(struct reader *r)
{
	struct query *q = parse_not(r);
	while (q && take(r, "and")) {
		struct query *b = parse_not(r);
		q = b ? node(r, AND, q, b) : NULL;
	}
	return q;
}

static struct query *parse_or(struct reader *r)
{
	struct query *q = parse_and(r);
	while (q && take(r, "or")) {
		struct query *b = parse_and(r);
		q = b ? node(r, OR, q, b) : NULL;
	}
	return q;
}

struct query *query_parse(struct task *t, const struct class *c, const char *text)
{
	struct reader r = { .t = t, .class = c, .text = text, .at = text };
	struct query *q = parse_or(&r);
	skip_blanks(&r);
	if (q && *r.at)
		return bad(&r, "the end is expected");
	return q;
}

/* ---- asking ---- */

bool query_matches(struct task *t, const struct query *q, const struct row *row)
{
	switch (q->op) {
	case TRUE:
	case FALSE:
		return q->op == TRUE;
	case EQUALS:
		return streq(record_text(t, row, q->field), q->value);
	case NOT:
		return !query_matches(t, q->a, row);
	case AND:
		return query_matches(t, q->a, row) && query_matches(t, q->b, row);
	default:
		return query_matches(t, q->a, row) || query_matches(t, q->b, row);
	}
}

/* Those that the database finds quickly are worth it: links go by references. */
bool query_needs(const struct query *q, const struct field **ret_field, const char **ret_value)
{
	if (q->op == AND)
		return query_needs(q->a, ret_field, ret_value) ||
		       query_needs(q->b, ret_field, ret_value);
	if (q->op != EQUALS || !field_is_stored(q->field) ||
	    (q->field->kind != REF && !streq(q->field->name, "uuid") &&
	     !streq(q->field->name, "name_label")))
		return false;
	*ret_field = q->field;
	*ret_value = q->value;
	return true;
}
