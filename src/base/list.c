// SPDX-License-Identifier: Apache-2.0
#include "base/list.h"

#include "base/text.h"

void list_add(const void *ctx, struct list *l, const char *s)
{
	l->v = talloc_realloc(ctx, l->v, const char *, l->n + 1);
	l->v[l->n++] = talloc_strdup(l->v, s);
}

static size_t list_find(const struct list *l, const char *s)
{
	size_t i = 0;
	while (i < l->n && !streq(l->v[i], s))
		i++;
	return i;
}

bool list_has(const struct list *l, const char *s)
{
	return list_find(l, s) < l->n;
}

void list_put(const void *ctx, struct list *l, const char *s)
{
	if (!list_has(l, s))
		list_add(ctx, l, s);
}

void list_remove(struct list *l, const char *s)
{
	size_t i = list_find(l, s);
	if (i == l->n)
		return;
	memmove(l->v + i, l->v + i + 1, (l->n - i - 1) * sizeof *l->v);
	l->n--;
}

struct list list_split(const void *ctx, const char *s, char separator)
{
	struct list l = { 0 };
	while (*s) {
		const char *end = strchr(s, separator);
		size_t n = end ? (size_t)(end - s) : strlen(s);
		char *piece = talloc_strndup(ctx, s, n);
		list_add(ctx, &l, piece);
		talloc_free(piece);
		s += n + (end ? 1 : 0);
	}
	return l;
}

char *list_join(const void *ctx, const struct list *l, const char *separator)
{
	char *s = talloc_strdup(ctx, "");
	for (size_t i = 0; i < l->n; i++)
		s = talloc_asprintf_append(s, "%s%s", i ? separator : "", l->v[i]);
	return s;
}

static size_t map_find(const struct map *m, const char *key)
{
	size_t i = 0;
	while (i < m->n && !streq(m->v[i].key, key))
		i++;
	return i;
}

void map_set(const void *ctx, struct map *m, const char *key, const char *value)
{
	size_t i = map_find(m, key);
	if (i == m->n) {
		m->v = talloc_realloc(ctx, m->v, struct pair, m->n + 1);
		m->v[m->n++].key = talloc_strdup(m->v, key);
	}
	m->v[i].value = talloc_strdup(m->v, value);
}

const char *map_get(const struct map *m, const char *key)
{
	size_t i = map_find(m, key);
	return i < m->n ? m->v[i].value : NULL;
}

void map_remove(struct map *m, const char *key)
{
	size_t i = map_find(m, key);
	if (i == m->n)
		return;
	memmove(m->v + i, m->v + i + 1, (m->n - i - 1) * sizeof *m->v);
	m->n--;
}

struct list list_copy(const void *ctx, const struct list *from)
{
	struct list l = { 0 };
	for (size_t i = 0; i < from->n; i++)
		list_add(ctx, &l, from->v[i]);
	return l;
}

struct map map_copy(const void *ctx, const struct map *from)
{
	struct map m = { 0 };
	for (size_t i = 0; i < from->n; i++)
		map_set(ctx, &m, from->v[i].key, from->v[i].value);
	return m;
}

bool list_equal(const struct list *a, const struct list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!streq(a->v[i], b->v[i]))
			return false;
	return true;
}

bool map_equal(const struct map *a, const struct map *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		const char *v = map_get(b, a->v[i].key);
		if (!v || !streq(v, a->v[i].value))
			return false;
	}
	return true;
}
