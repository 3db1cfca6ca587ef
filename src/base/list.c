// SPDX-License-Identifier: Apache-2.0
#include "base/list.h"

#include <stdlib.h>

#include "base/text.h"

/* Room for one more of n members of that size; it doubles, so that many are added in no more time
 * than each needs. */
static void *room_for_one(const void *ctx, void *members, size_t n, size_t size)
{
	if (members && talloc_get_size(members) > n * size)
		return members;
	return talloc_realloc_size(ctx, members, (n ? 2 * n : 1) * size);
}

void list_add(const void *ctx, struct list *l, const char *s)
{
	l->v = room_for_one(ctx, l->v, l->n, sizeof *l->v);
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

void map_add(const void *ctx, struct map *m, const char *key, const char *value)
{
	m->v = room_for_one(ctx, m->v, m->n, sizeof *m->v);
	m->v[m->n++] = (struct pair){ talloc_strdup(m->v, key), talloc_strdup(m->v, value) };
}

void map_set(const void *ctx, struct map *m, const char *key, const char *value)
{
	size_t i = map_find(m, key);
	if (i == m->n)
		map_add(ctx, m, key, value);
	else
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
		map_add(ctx, &m, from->v[i].key, from->v[i].value);
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

/* ---- many at once ---- */

static int in_order(const void *one, const void *other)
{
	const struct pair *a = one, *b = other;
	return strcmp(a->key, b->key);
}

struct map map_sorted(const void *ctx, const struct map *from)
{
	struct map m = { from->n, talloc_array(ctx, struct pair, from->n) };
	if (!from->n)
		return m;
	memcpy(m.v, from->v, from->n * sizeof *m.v);
	qsort(m.v, m.n, sizeof *m.v, in_order);
	return m;
}

const char *map_get_sorted(const struct map *sorted, const char *key)
{
	const struct pair wanted = { key, NULL };
	const struct pair *found =
		sorted->n ? bsearch(&wanted, sorted->v, sorted->n, sizeof wanted, in_order) : NULL;
	return found ? found->value : NULL;
}

bool map_equal(const struct map *a, const struct map *b)
{
	if (a->n != b->n)
		return false;
	void *own = talloc_new(NULL);
	struct map one = map_sorted(own, a), other = map_sorted(own, b);
	bool equal = true;
	for (size_t i = 0; equal && i < one.n; i++)
		equal = streq(one.v[i].key, other.v[i].key) &&
			streq(one.v[i].value, other.v[i].value);
	talloc_free(own);
	return equal;
}
