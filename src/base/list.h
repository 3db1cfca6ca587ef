// SPDX-License-Identifier: Apache-2.0
/* list.h -- sets and maps of strings, as XenAPI's fields hold them: small, in order of
 * arrival.  To look one up takes as long as there are members; members are copied onto ctx. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
	size_t n;
	const char **v;
};

struct pair {
	const char *key, *value;
};

struct map {
	size_t n;
	struct pair *v;
};

void list_add(const void *ctx, struct list *, const char *s);
/* Adds s unless it is there. */
void list_put(const void *ctx, struct list *, const char *s);
bool list_has(const struct list *, const char *s);
void list_remove(struct list *, const char *s);
/* The pieces of s between separators; "" gives none. */
struct list list_split(const void *ctx, const char *s, char separator);
char *list_join(const void *ctx, const struct list *, const char *separator);

void map_set(const void *ctx, struct map *, const char *key, const char *value);
/* The same of a key that is not there. */
void map_add(const void *ctx, struct map *, const char *key, const char *value);
/* NULL when there is no such key. */
const char *map_get(const struct map *, const char *key);
void map_remove(struct map *, const char *key);

struct list list_copy(const void *ctx, const struct list *);
struct map map_copy(const void *ctx, const struct map *);
bool list_equal(const struct list *, const struct list *);
bool map_equal(const struct map *, const struct map *);

/* The same pairs in the order of their keys, on ctx: for who looks up many.  The texts stay the
 * other map's. */
struct map map_sorted(const void *ctx, const struct map *);
const char *map_get_sorted(const struct map *sorted, const char *key);
