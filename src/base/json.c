// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <stdlib.h>

#include "base/list.h"
#include "base/task.h"
#include "base/text.h"

static int release(json_t **holder)
{
	json_decref(*holder);
	return 0;
}

json_t *json_own(const void *ctx, json_t *j)
{
	if (!j)
		return NULL;
	json_t **holder = talloc(ctx, json_t *);
	*holder = j;
	talloc_set_destructor(holder, release);
	return j;
}

struct json_shape json_shape(const char *s, size_t n)
{
	struct json_shape shape = { 0, 1 };
	size_t depth = 0;
	bool quoted = false;
	for (size_t i = 0; i < n; i++) {
		if (quoted) {
			if (s[i] == '\\')
				i++;
			else if (s[i] == '"')
				quoted = false;
		} else if (s[i] == '"') {
			quoted = true;
		} else if (s[i] == '{' || s[i] == '[') {
			shape.depth = ++depth > shape.depth ? depth : shape.depth;
			shape.values++;
		} else if (s[i] == '}' || s[i] == ']') {
			depth -= depth > 0;
		} else if (s[i] == ',' || s[i] == ':') {
			shape.values++;
		}
	}
	return shape;
}

json_t *json_read(struct task *t, const char *text, size_t n, size_t depth)
{
	json_error_t e;
	if (json_shape(text, n).depth > depth)
		return fail_ptr(t, INTERNAL_ERROR, str(t, "JSON nested deeper than %zu", depth));
	json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	if (!j)
		return fail_ptr(t, INTERNAL_ERROR,
				str(t, "bad JSON at byte %d: %s", e.position, e.text));
	return json_own(t, j);
}

char *json_text(const void *ctx, const json_t *j)
{
	char *s = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
	char *copy = talloc_strdup(ctx, s ? s : "");
	free(s);
	return copy;
}

char *list_to_json(const void *ctx, const struct list *l)
{
	json_t *a = json_array();
	for (size_t i = 0; i < l->n; i++)
		json_array_append_new(a, json_string(l->v[i]));
	char *s = json_text(ctx, a);
	json_decref(a);
	return s;
}

char *map_to_json(const void *ctx, const struct map *m)
{
	json_t *o = json_object();
	for (size_t i = 0; i < m->n; i++)
		json_object_set_new(o, m->v[i].key, json_string(m->v[i].value));
	char *s = json_text(ctx, o);
	json_decref(o);
	return s;
}

bool list_from_json(const void *ctx, const char *text, struct list *ret)
{
	*ret = (struct list){ 0 };
	if (!*text)
		return true;
	json_t *a = json_loads(text, 0, NULL), *item;
	bool good = json_is_array(a);
	size_t i;
	json_array_foreach (a, i, item) {
		good = good && json_is_string(item);
		if (good)
			list_add(ctx, ret, json_string_value(item));
	}
	json_decref(a);
	return good;
}

bool map_from_json(const void *ctx, const char *text, struct map *ret)
{
	*ret = (struct map){ 0 };
	if (!*text)
		return true;
	json_t *o = json_loads(text, 0, NULL), *item;
	bool good = json_is_object(o);
	const char *key;
	json_object_foreach (o, key, item) {
		good = good && json_is_string(item);
		if (good)
			map_add(ctx, ret, key, json_string_value(item));
	}
	json_decref(o);
	return good;
}
