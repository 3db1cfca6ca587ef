// SPDX-License-Identifier: Apache-2.0
/* json.h -- jansson values that end with a task, and reading with limits. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct task;
struct list;
struct map;

/* j is released when ctx is freed.  Returns j (NULL stays NULL). */
json_t *json_own(const void *ctx, json_t *j);

/* What a text would become, seen without building anything: how deep its arrays and objects are
 * within each other, and how many values there are at most; each key of an object counts as one. */
struct json_shape {
	size_t depth, values;
};
struct json_shape json_shape(const char *text, size_t n);

/* Text to a value on t.  Fails with INTERNAL_ERROR on anything but one JSON object or array, nested at
 * most depth deep. */
json_t *json_read(struct task *, const char *text, size_t n, size_t depth);
char *json_text(const void *ctx, const json_t *);

/* How sets and maps of strings are written in the database: ["a","b"] and {"k":"v"}; ""
 * reads as empty.  What is not a string in them is refused with false. */
char *list_to_json(const void *ctx, const struct list *);
char *map_to_json(const void *ctx, const struct map *);
bool list_from_json(const void *ctx, const char *text, struct list *ret);
bool map_from_json(const void *ctx, const char *text, struct map *ret);
