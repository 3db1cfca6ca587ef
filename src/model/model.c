// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/task.h"

/* ---- the tables as data ---- */

/* ROW is the struct of the table being read. */
#define KEEP_COLUMNS
#define FIELD(name, kind, of, access, def, doc)                                                    \
	{ #name, kind, #of, access, def, doc, offsetof(ROW, name), NULL },
#define PRIVATE(name, kind, of, def, doc)                                                          \
	{ #name, kind, #of, HIDDEN, def, doc, offsetof(ROW, name), NULL },
#define LINK(name, class, field, doc) { #name, REF_SET, #class, LINKED, "", doc, 0, #field },
#define COMPUTED(name, kind, of, doc) { #name, kind, #of, WORKED_OUT, "", doc, 0, NULL },
#define CALL(class, name, kind, of, role, doc, ...)

#define ROW struct session_row
static const struct field fields_session[] = {
#include "model/session.def"
	{ 0 },
};
#undef ROW

#define ROW struct role_row
static const struct field fields_role[] = {
#include "model/role.def"
	{ 0 },
};
#undef ROW

#define ROW struct subject_row
static const struct field fields_subject[] = {
#include "model/subject.def"
	{ 0 },
};
#undef ROW

#define ROW struct user_row
static const struct field fields_user[] = {
#include "model/user.def"
	{ 0 },
};
#undef ROW

#define ROW struct secret_row
static const struct field fields_secret[] = {
#include "model/secret.def"
	{ 0 },
};
#undef ROW

#define ROW struct host_metrics_row
static const struct field fields_host_metrics[] = {
#include "model/host_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct host_cpu_row
static const struct field fields_host_cpu[] = {
#include "model/host_cpu.def"
	{ 0 },
};
#undef ROW

#define ROW struct SM_row
static const struct field fields_SM[] = {
#include "model/SM.def"
	{ 0 },
};
#undef ROW

#define ROW struct task_row
static const struct field fields_task[] = {
#include "model/task.def"
	{ 0 },
};
#undef ROW

#define ROW struct pool_row
static const struct field fields_pool[] = {
#include "model/pool.def"
	{ 0 },
};
#undef ROW

#define ROW struct host_row
static const struct field fields_host[] = {
#include "model/host.def"
	{ 0 },
};
#undef ROW

#define ROW struct VM_row
static const struct field fields_VM[] = {
#include "model/VM.def"
	{ 0 },
};
#undef ROW

#define ROW struct VM_metrics_row
static const struct field fields_VM_metrics[] = {
#include "model/VM_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct VM_guest_metrics_row
static const struct field fields_VM_guest_metrics[] = {
#include "model/VM_guest_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct VBD_row
static const struct field fields_VBD[] = {
#include "model/VBD.def"
	{ 0 },
};
#undef ROW

#define ROW struct VBD_metrics_row
static const struct field fields_VBD_metrics[] = {
#include "model/VBD_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct VDI_row
static const struct field fields_VDI[] = {
#include "model/VDI.def"
	{ 0 },
};
#undef ROW

#define ROW struct VIF_row
static const struct field fields_VIF[] = {
#include "model/VIF.def"
	{ 0 },
};
#undef ROW

#define ROW struct VIF_metrics_row
static const struct field fields_VIF_metrics[] = {
#include "model/VIF_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct network_row
static const struct field fields_network[] = {
#include "model/network.def"
	{ 0 },
};
#undef ROW

#define ROW struct PIF_row
static const struct field fields_PIF[] = {
#include "model/PIF.def"
	{ 0 },
};
#undef ROW

#define ROW struct PIF_metrics_row
static const struct field fields_PIF_metrics[] = {
#include "model/PIF_metrics.def"
	{ 0 },
};
#undef ROW

#define ROW struct VTPM_row
static const struct field fields_VTPM[] = {
#include "model/VTPM.def"
	{ 0 },
};
#undef ROW

#define ROW struct console_row
static const struct field fields_console[] = {
#include "model/console.def"
	{ 0 },
};
#undef ROW

#define ROW struct SR_row
static const struct field fields_SR[] = {
#include "model/SR.def"
	{ 0 },
};
#undef ROW

#define ROW struct PBD_row
static const struct field fields_PBD[] = {
#include "model/PBD.def"
	{ 0 },
};
#undef ROW

#define ROW struct message_row
static const struct field fields_message[] = {
#include "model/message.def"
	{ 0 },
};
#undef ROW

#define ROW struct blob_row
static const struct field fields_blob[] = {
#include "model/blob.def"
	{ 0 },
};
#undef ROW

#define ROW struct VMSS_row
static const struct field fields_VMSS[] = {
#include "model/VMSS.def"
	{ 0 },
};
#undef ROW

#define ROW struct event
static const struct field fields_event[] = {
#include "model/event.def"
	{ 0 },
};
#undef ROW

#undef KEEP_COLUMNS
#include "model/done.def"

const struct class class_event = { "event", sizeof(struct event), fields_event };

#define CLASS(name)                                                                                \
	const struct class class_##name = { #name, sizeof(struct name##_row), fields_##name };
#include "model/classes.def"

const struct class *const classes[] = {
#define CLASS(name) &class_##name,
#include "model/classes.def"
	NULL,
};

static const struct enum_row {
	const char *name, *value;
} enum_rows[] = {
#define ENUM(name)
#define VALUE(name, value) { #name, #value },
#define END(name)
#include "model/enums.def"
};

/* ---- looking up ---- */

const struct class *model_class(const char *name)
{
	for (size_t i = 0; classes[i]; i++)
		if (strcasecmp(classes[i]->name, name) == 0)
			return classes[i];
	return NULL;
}

const struct field *model_field(const struct class *c, const char *name)
{
	for (const struct field *f = c->fields; f->name; f++)
		if (streq(f->name, name))
			return f;
	return NULL;
}

bool field_is_stored(const struct field *f)
{
	return f->access != LINKED && f->access != WORKED_OUT;
}

bool field_is_set(const struct field *f)
{
	return f->kind >= STRING_SET && f->kind <= REF_SET;
}

bool field_is_map(const struct field *f)
{
	return f->kind >= STRING_MAP;
}

/* The rows of one enumeration stand together. */
const char *enum_text(const char *name, int value)
{
	for (size_t i = 0; i < COUNT(enum_rows); i++)
		if (streq(enum_rows[i].name, name))
			return enum_rows[i + (size_t)value].value;
	return "";
}

int enum_value(const char *name, const char *text)
{
	int value = 0;
	for (size_t i = 0; i < COUNT(enum_rows); i++) {
		if (!streq(enum_rows[i].name, name))
			continue;
		if (strcasecmp(enum_rows[i].value, text) == 0)
			return value;
		value++;
	}
	return -1;
}

struct list enum_values(const void *ctx, const char *name)
{
	struct list values = { 0 };
	for (size_t i = 0; i < COUNT(enum_rows); i++)
		if (streq(enum_rows[i].name, name))
			list_add(ctx, &values, enum_rows[i].value);
	return values;
}

/* ---- rows ---- */

static void *member(const struct row *r, const struct field *f)
{
	return (char *)(uintptr_t)r + f->offset;
}

struct list *field_list(const struct row *r, const struct field *f)
{
	return member(r, f);
}

struct map *field_map(const struct row *r, const struct field *f)
{
	return member(r, f);
}

const char *row_uuid(const struct row *r)
{
	return *(const char **)member(r, model_field(r->class, "uuid"));
}

static void set_identity(struct row *r)
{
	r->ref = ref_new(r);
	r->gen = 0;
	*(const char **)member(r, model_field(r->class, "uuid")) = uuid_new(r);
}

struct row *model_new(const void *ctx, const struct class *c)
{
	struct row *r = talloc_zero_size(ctx, c->size);
	struct task *t = task_new(r, "default");
	r->class = c;
	for (const struct field *f = c->fields; f->name; f++)
		if (field_is_stored(f) && field_parse(t, r, f, f->def) < 0)
			abort(); /* the table is wrong: a unit test makes every class */
	talloc_free(t);
	set_identity(r);
	return r;
}

struct row *model_copy(const void *ctx, const struct row *from)
{
	struct row *r = model_new(ctx, from->class);
	struct task *t = task_new(r, "copy");
	for (const struct field *f = r->class->fields; f->name; f++)
		if (field_is_stored(f) && field_parse(t, r, f, field_text(t, from, f)) < 0)
			abort(); /* what was read from a row is good for a row */
	talloc_free(t);
	set_identity(r);
	return r;
}

const char *field_text(const void *ctx, const struct row *r, const struct field *f)
{
	void *at = member(r, f);
	switch (f->kind) {
	case STRING:
	case DATETIME:
	case REF:
		return *(const char **)at;
	case INT:
		return str(ctx, "%lld", (long long)*(int64_t *)at);
	case FLOAT:
		return str(ctx, "%.16g", *(double *)at);
	case BOOL:
		return *(bool *)at ? "true" : "false";
	case ENUM:
		return enum_text(f->of, *(int *)at);
	default:
		return field_is_set(f) ? list_to_json(ctx, at) : map_to_json(ctx, at);
	}
}

static int bad(struct task *t, const struct field *f, const char *text)
{
	return fail(t, INVALID_VALUE, f->name, text);
}

static int parse_list(struct task *t, struct row *r, const struct field *f, const char *text)
{
	struct list l;
	if (!list_from_json(r, text, &l))
		return fail(t, FIELD_TYPE_ERROR, f->name);
	for (size_t i = 0; i < l.n; i++) {
		int64_t n;
		if (f->kind == ENUM_SET && enum_value(f->of, l.v[i]) < 0)
			return bad(t, f, l.v[i]);
		if (f->kind == INT_SET && !text_int(l.v[i], &n))
			return bad(t, f, l.v[i]);
	}
	*field_list(r, f) = l;
	return 0;
}

static int parse_map(struct task *t, struct row *r, const struct field *f, const char *text)
{
	struct map m;
	if (!map_from_json(r, text, &m))
		return fail(t, FIELD_TYPE_ERROR, f->name);
	for (size_t i = 0; i < m.n; i++) {
		if (f->kind == ENUM_MAP && enum_value(f->of, m.v[i].value) < 0)
			return bad(t, f, m.v[i].value);
		if (f->kind == KEYED_MAP && enum_value(f->of, m.v[i].key) < 0)
			return bad(t, f, m.v[i].key);
	}
	*field_map(r, f) = m;
	return 0;
}

static int parse_float(const char *text, double *ret)
{
	char *end;
	double v = strtod(text, &end);
	if (end == text || *end)
		return -1;
	*ret = v;
	return 0;
}

int field_parse(struct task *t, struct row *r, const struct field *f, const char *text)
{
	void *at = member(r, f);
	if (!text_is_utf8(text))
		return fail(t, INVALID_VALUE, f->name, "(not UTF-8)");
	switch (f->kind) {
	case STRING:
	case REF:
		*(const char **)at = talloc_strdup(r, text);
		return 0;
	case DATETIME:
		if (!text_is_time(text))
			return bad(t, f, text);
		*(const char **)at = talloc_strdup(r, text);
		return 0;
	case INT:
		return text_int(text, at) ? 0 : fail(t, FIELD_TYPE_ERROR, f->name);
	case FLOAT:
		return parse_float(text, at) == 0 ? 0 : fail(t, FIELD_TYPE_ERROR, f->name);
	case BOOL:
		return text_bool(text, at) ? 0 : fail(t, FIELD_TYPE_ERROR, f->name);
	case ENUM: {
		int v = enum_value(f->of, text);
		if (v < 0)
			return bad(t, f, text);
		*(int *)at = v;
		return 0;
	}
	default:
		return field_is_set(f) ? parse_list(t, r, f, text) : parse_map(t, r, f, text);
	}
}

static size_t members_of(const struct row *r, const struct field *f)
{
	return field_is_map(f) ? field_map(r, f)->n : field_is_set(f) ? field_list(r, f)->n : 0;
}

/* As many as the text has. */
static size_t members_in(const struct field *f, const char *text)
{
	size_t values = json_shape(text, strlen(text)).values - 1;
	return field_is_map(f) ? values / 2 : field_is_set(f) ? values : 0;
}

int field_check_size(struct task *t, const struct row *r, const struct field *f, const char *text)
{
	size_t n = members_in(f, text);
	if (n <= MEMBERS_LIMIT || (r && n < members_of(r, f)))
		return 0;
	return fail(t, VALUE_NOT_SUPPORTED, f->name, str(t, "%zu members", n),
		    str(t, "there can be %d at most", MEMBERS_LIMIT));
}

int field_take(struct task *t, struct row *r, const struct field *f, const char *text)
{
	bool is_number = f->kind == FLOAT;
	if (is_number && strspn(text, "0123456789+-.eE") != strlen(text))
		return fail(t, FIELD_TYPE_ERROR, f->name);
	if (field_check_size(t, r, f, text) < 0 || field_parse(t, r, f, text) < 0)
		return -1;
	if (is_number && !isfinite(*(double *)member(r, f)))
		return bad(t, f, text);
	return 0;
}
