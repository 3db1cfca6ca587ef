// SPDX-License-Identifier: Apache-2.0
#include "api/values.h"

#include <stdlib.h>

#include "api/call.h"
#include "api/event.h"
#include "api/record.h"
#include "base/json.h"
#include "base/task.h"

/* ---- out ---- */

static void put_number(struct values *out, const char *text)
{
	out->number(out, strtoll(text, NULL, 10));
}

static void put_real(struct values *out, const char *text)
{
	out->real(out, strtod(text, NULL));
}

static void put_text(struct values *out, const char *text)
{
	out->text(out, text);
}

static void put_count(struct values *out, const char *text)
{
	out->count(out, strtoll(text, NULL, 10));
}

typedef void put_fn(struct values *, const char *text);

static void put_list(struct values *out, const struct list *l, put_fn *put)
{
	out->begin(out, false);
	for (size_t i = 0; i < l->n; i++)
		put(out, l->v[i]);
	out->end(out, false);
}

static void put_map(struct values *out, const struct map *m, put_fn *put)
{
	out->begin(out, true);
	for (size_t i = 0; i < m->n; i++) {
		out->key(out, m->v[i].key);
		put(out, m->v[i].value);
	}
	out->end(out, true);
}

void values_put_list(struct values *out, const struct list *l)
{
	put_list(out, l, put_text);
}

static void put_event(struct task *t, struct values *out, const struct event *e)
{
	out->begin(out, true);
	for (const struct field *f = class_event.fields; f->name; f++) {
		if (streq(f->name, "obj_uuid") || (f->kind == RECORD && !e->snapshot))
			continue;
		out->key(out, f->name);
		values_put(t, out, e, f);
	}
	out->end(out, true);
}

/* Each one's own memory goes before the next one's comes.  An object that has gone meanwhile is not told of: that it
 * was deleted comes next. */
static void put_events(struct task *t, struct values *out, const struct event_batch *b)
{
	out->begin(out, false);
	for (size_t i = 0; i < b->n; i++) {
		struct task *own = task_part(t);
		struct event e = b->v[i];
		e.snapshot = event_object(own, &e);
		if (e.snapshot || e.operation == event_operation_del)
			put_event(own, out, &e);
		talloc_free(own);
	}
	out->end(out, false);
}

static void put_batch(struct task *t, struct values *out, const struct event_batch *b)
{
	out->begin(out, true);
	out->key(out, "events");
	put_events(t, out, b);
	out->key(out, "valid_ref_counts");
	put_map(out, &b->valid_ref_counts, put_count);
	out->key(out, "token");
	out->text(out, b->token);
	out->end(out, true);
}

/* A map from the rows' refs; each one's own memory goes before the next one's comes.  NULL ended. */
static void put_records(struct task *t, struct values *out, struct row *const *rows)
{
	out->begin(out, true);
	for (; rows && *rows; rows++) {
		struct task *own = task_part(t);
		out->key(out, (*rows)->ref);
		values_put_record(own, out, *rows);
		talloc_free(own);
	}
	out->end(out, true);
}

void values_put(struct task *t, struct values *out, const void *base, const struct field *f)
{
	const void *at = (const char *)base + f->offset;
	switch (f->kind) {
	case VOID:
		out->nothing(out);
		break;
	case EVENT_BATCH:
		put_batch(t, out, *(struct event_batch *const *)at);
		break;
	case EVENT_SET:
		put_events(t, out, *(struct event_batch *const *)at);
		break;
	case RECORD:
		values_put_record(t, out, *(const struct row *const *)at);
		break;
	case RECORDS:
		put_records(t, out, *(struct row * *const *)at);
		break;
	case STRING:
	case REF:
		out->text(out, *(const char *const *)at);
		break;
	case DATETIME:
		out->time(out, *(const char *const *)at);
		break;
	case INT:
		out->number(out, *(const int64_t *)at);
		break;
	case FLOAT:
		out->real(out, *(const double *)at);
		break;
	case BOOL:
		out->truth(out, *(const bool *)at);
		break;
	case ENUM:
		out->text(out, enum_text(f->of, *(const int *)at));
		break;
	case STRING_SET:
	case ENUM_SET:
	case REF_SET:
		put_list(out, at, put_text);
		break;
	case INT_SET:
		put_list(out, at, put_number);
		break;
	case COUNT_MAP:
	case INT_INT_MAP:
		put_map(out, at, put_number);
		break;
	case INT_FLOAT_MAP:
		put_map(out, at, put_real);
		break;
	default:
		put_map(out, at, put_text);
		break;
	}
}

void values_put_field(struct task *t, struct values *out, const struct row *r,
		      const struct field *f)
{
	if (field_is_stored(f)) {
		values_put(t, out, record_shown(t, r, f), f);
		return;
	}
	struct task *own = task_part(t);
	struct list l = record_list(own, r, f);
	values_put_list(out, &l);
	talloc_free(own);
}

void values_put_record(struct task *t, struct values *out, const struct row *r)
{
	out->begin(out, true);
	for (const struct field *f = r->class->fields; f->name; f++) {
		if (f->access == HIDDEN)
			continue;
		out->key(out, f->name);
		values_put_field(t, out, r, f);
	}
	out->end(out, true);
}

/* ---- in ---- */

/* NULL: an array or an object, or null. */
static const char *scalar(const void *ctx, const json_t *j)
{
	switch (json_typeof(j)) {
	case JSON_STRING:
		return json_string_value(j);
	case JSON_INTEGER:
		return str(ctx, "%lld", (long long)json_integer_value(j));
	case JSON_REAL:
		return str(ctx, "%.17g", json_real_value(j));
	case JSON_TRUE:
		return "true";
	case JSON_FALSE:
		return "false";
	default:
		return NULL;
	}
}

static const char *set_text(struct task *t, const json_t *j)
{
	struct list l = { 0 };
	size_t i;
	json_t *each;
	json_array_foreach (j, i, each) {
		const char *s = scalar(t, each);
		if (!s)
			return NULL;
		list_add(t, &l, s);
	}
	return json_is_array(j) ? list_to_json(t, &l) : NULL;
}

static const char *map_text(struct task *t, const json_t *j)
{
	struct map m = { 0 };
	const char *key;
	json_t *each;
	json_object_foreach ((json_t *)(uintptr_t)j, key, each) {
		const char *s = scalar(t, each);
		if (!s)
			return NULL;
		map_add(t, &m, key, s);
	}
	return json_is_object(j) ? map_to_json(t, &m) : NULL;
}

const char *values_text(struct task *t, const json_t *j, const struct field *f)
{
	const char *text = !j                ? NULL
			   : field_is_set(f) ? set_text(t, j)
			   : field_is_map(f) ? map_text(t, j)
					     : scalar(t, j);
	return text ? text : fail_ptr(t, FIELD_TYPE_ERROR, f->name);
}
