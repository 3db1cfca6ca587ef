// SPDX-License-Identifier: Apache-2.0
#include "api/takes.h"

#include <stdio.h>
#include <string.h>

#include "base/task.h"
#include "base/text.h"

static const struct limit {
	const struct class *class;
	const char *field, *key, *values, *why;
} limits[] = {
#define TAKES(class, field, key, values, why) { &class_##class, #field, key, values, why },
#include "api/takes.def"
};

static bool are_letters(const char *letters, size_t n, const char *value)
{
	for (; *value; value++)
		if (!memchr(letters, *value, n))
			return false;
	return true;
}

/* One of the alternatives, of n bytes: a word; N..M, a number in between; [abc], letters of these; *, anything. */
static bool fits_one(const char *one, size_t n, const char *value)
{
	long long least, most;
	int end = 0;
	int64_t number;
	if (n == 1 && *one == '*')
		return true;
	if (n > 2 && *one == '[')
		return are_letters(one + 1, n - 2, value);
	if (sscanf(one, "%lld..%lld%n", &least, &most, &end) == 2 && (size_t)end == n)
		return text_int(value, &number) && number >= least && number <= most;
	return strlen(value) == n && strncmp(one, value, n) == 0;
}

static bool fits(const char *values, const char *value)
{
	for (;; values++) {
		size_t n = strcspn(values, "|");
		if (fits_one(values, n, value))
			return true;
		values += n;
		if (!*values)
			return false;
	}
}

static int check(struct task *t, const struct limit *l, const char *name, const char *value)
{
	return fits(l->values, value) ? 0 : fail(t, VALUE_NOT_SUPPORTED, name, value, l->why);
}

/* The row of the field itself (key ""), or of a key: its own, or that of all keys, "*".  NULL: none. */
static const struct limit *limit_of(const struct class *c, const char *field, const char *key)
{
	const struct limit *of_all = NULL;
	for (size_t i = 0; i < COUNT(limits); i++) {
		const struct limit *l = &limits[i];
		if (l->class != c || !streq(l->field, field))
			continue;
		if (streq(l->key, key))
			return l;
		if (*key && streq(l->key, "*"))
			of_all = l;
	}
	return of_all;
}

bool takes_some(const struct class *c, const struct field *f)
{
	for (size_t i = 0; i < COUNT(limits); i++)
		if (limits[i].class == c && streq(limits[i].field, f->name))
			return true;
	return false;
}

static int check_keys(struct task *t, const struct class *c, const char *field,
		      const struct map *now, const struct map *before)
{
	for (size_t i = 0; i < now->n; i++) {
		const struct pair *p = &now->v[i];
		const char *was = before ? map_get(before, p->key) : NULL;
		const struct limit *l = limit_of(c, field, p->key);
		if (l && !(was && streq(was, p->value)) &&
		    check(t, l, str(t, "%s:%s", field, p->key), p->value) < 0)
			return -1;
	}
	return 0;
}

int takes_check_map(struct task *t, const struct class *c, const char *field, const struct map *m)
{
	return check_keys(t, c, field, m, NULL);
}

/* Sets and maps without members are "". */
static const char *text_of(struct task *t, const struct row *r, const struct field *f)
{
	bool is_empty = (field_is_map(f) && !field_map(r, f)->n) ||
			(field_is_set(f) && !field_list(r, f)->n);
	return is_empty ? "" : field_text(t, r, f);
}

int takes_check(struct task *t, const struct row *r, const struct field *f,
		const struct map *before)
{
	const struct limit *whole = limit_of(r->class, f->name, "");
	if (whole && check(t, whole, f->name, text_of(t, r, f)) < 0)
		return -1;
	return field_is_map(f) ? check_keys(t, r->class, f->name, field_map(r, f), before) : 0;
}
