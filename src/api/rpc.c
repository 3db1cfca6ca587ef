// SPDX-License-Identifier: Apache-2.0
#include "api/rpc.h"

#include "api/call.h"
#include "api/query.h"
#include "api/record.h"
#include "api/role.h"
#include "api/session.h"
#include "api/values.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"

struct rpc {
	struct task *t;
	struct task *reader;       /* that params are on; NULL: they have been read */
	const char *method;        /* "VM.get_record" */
	const struct class *class; /* NULL: none of ours */
	const char *name;          /* "get_record" */
	const json_t *params;      /* all of them */
	size_t first;              /* the first behind the session */
	struct values *out;
};

/* Nothing of params is needed any more. */
static void done_reading(struct rpc *r)
{
	talloc_free(r->reader);
	r->reader = NULL;
	r->params = NULL;
}

static size_t given(const struct rpc *r)
{
	size_t n = json_array_size(r->params);
	return n > r->first ? n - r->first : 0;
}

static const json_t *param(const struct rpc *r, size_t i)
{
	return json_array_get(r->params, r->first + i);
}

static int unknown(struct rpc *r)
{
	return fail(r->t, MESSAGE_METHOD_UNKNOWN, r->method);
}

/* Who has optional parameters overlooks those behind them. */
static int check_count(struct rpc *r, size_t wanted, bool more)
{
	size_t n = given(r);
	if (n == wanted || (more && n > wanted))
		return 0;
	return fail(r->t, MESSAGE_PARAMETER_COUNT_MISMATCH, r->method, str(r->t, "%zu", wanted),
		    str(r->t, "%zu", n));
}

/* A string among the parameters; NULL: failed. */
static const char *string(struct rpc *r, size_t i, const char *name)
{
	const struct field f = { .name = name, .kind = STRING };
	return values_text(r->t, param(r, i), &f);
}

/* ---- calls ---- */

static const struct call *find_call(const char *method)
{
	for (size_t i = 0; all_calls[i]; i++)
		if (streq(all_calls[i]->name, method))
			return all_calls[i];
	return NULL;
}

static struct field as_field(const struct arg *a)
{
	return (struct field){ .name = a->name, .kind = a->kind, .of = a->of, .offset = a->offset };
}

/* What is left out is what a new object would have, or nothing. */
static const char *default_of(const struct class *c, const struct field *f)
{
	const struct field *of_class = c ? model_field(c, f->name) : NULL;
	if (of_class && of_class->kind == f->kind && field_is_stored(of_class))
		return of_class->def;
	switch (f->kind) {
	case REF:
		return NULL_REF;
	case INT:
	case FLOAT:
		return "0";
	case BOOL:
		return "false";
	default:
		return "";
	}
}

/* The struct is no row, but its members are of the same kinds. */
static int set_arg(struct rpc *r, struct task *t, void *args, const struct arg *a, const json_t *j)
{
	struct field f = as_field(a);
	const char *text = j ? values_text(t, j, &f) : default_of(r->class, &f);
	return text ? field_take(t, args, &f, text) : -1;
}

static int by_position(struct rpc *r, struct task *t, const struct call *c, void *args)
{
	size_t wanted = 0, i = 0;
	bool more = false;
	for (const struct arg *a = c->args(); a->name; a++) {
		wanted += !a->optional;
		more |= a->optional;
	}
	if (check_count(r, wanted, more) < 0)
		return -1;
	for (const struct arg *a = c->args(); a->name; a++)
		if (set_arg(r, t, args, a, param(r, i++)) < 0)
			return -1;
	return 0;
}

static int by_name(struct rpc *r, struct task *t, const struct call *c, void *args)
{
	if (check_count(r, 1, false) < 0)
		return -1;
	if (!json_is_object(param(r, 0)))
		return fail(t, FIELD_TYPE_ERROR, "args");
	for (const struct arg *a = c->args(); a->name; a++)
		if (set_arg(r, t, args, a, json_object_get(param(r, 0), a->name)) < 0)
			return -1;
	return 0;
}

/* These are made from a record. */
static bool takes_record(const char *method)
{
	static const char *const makers[] = {
		"PBD.create",  "VBD.create",     "VDI.create",    "VIF.create",     "VM.create",
		"VMSS.create", "network.create", "secret.create", "subject.create",
	};
	for (size_t i = 0; i < COUNT(makers); i++)
		if (streq(method, makers[i]))
			return true;
	return false;
}

/* args: room for all of them, on talloc. */
static int arguments(struct rpc *r, struct task *t, const struct call *c, void *args)
{
	int read = takes_record(c->name) ? by_name(r, t, c, args) : by_position(r, t, c, args);
	if (read < 0 && t != r->t && t->code != NO_ERROR)
		task_fail_params(r->t, t->code, t->params);
	return read;
}

/* ---- calls that make an object of a record ---- */

/* Such a call with all that the record says: what is no argument of the maker is set when the object is there.  The
 * maker's arguments are its child. */
struct making {
	struct call call; /* what is run */
	const struct call *maker;
	const struct class *class;
	const json_t *rest;
};

static bool is_argument(const struct call *c, const char *name)
{
	for (const struct arg *a = c->args(); a->name; a++)
		if (streq(a->name, name))
			return true;
	return false;
}

static json_t *rest_of(const void *ctx, const struct call *c, const json_t *record)
{
	json_t *rest = json_own(ctx, json_object()), *value;
	const char *key;
	json_object_foreach ((json_t *)(uintptr_t)record, key, value)
		if (!is_argument(c, key))
			json_object_set_new(rest, key, json_deep_copy(value));
	return rest;
}

/* A client that has logged out meanwhile does not keep half an object from going. */
static void unmake(struct task *t, const struct class *class, const char *ref)
{
	struct task *own = task_new(t, t->name);
	const struct call *destroy = find_call(str(own, "%s.destroy", class->name));
	void *args = talloc_zero_size(own, destroy->size);
	struct field self = as_field(destroy->args());
	own->session = db_seek(own, session, t->session) ? t->session : "";
	if (field_parse(own, args, &self, ref) == 0)
		api_call(own, destroy, args);
	talloc_free(own);
}

/* All of the record, or no object. */
static int run_making(struct task *t, void *args)
{
	const struct making *m = talloc_get_type_abort(talloc_parent(args), struct making);
	if (m->maker->run(t, args) < 0)
		return -1;
	const char *ref = *(const char **)((char *)args + m->maker->result_offset);
	if (record_set_all(t, m->class, ref, m->rest) == 0)
		return 0;
	unmake(t, m->class, ref);
	return -1;
}

/* ---- running ---- */

/* The call to be run with its arguments, on t; NULL: failed. */
static const struct call *prepare(struct rpc *r, struct task *t, const struct call *c,
				  void **ret_args)
{
	struct making *m = talloc_zero(t, struct making);
	*ret_args = talloc_zero_size(m, c->size);
	if (arguments(r, t, c, *ret_args) < 0)
		return NULL;
	if (!takes_record(c->name))
		return c;
	m->call = *c;
	m->call.run = run_making;
	m->maker = c;
	m->class = r->class;
	m->rest = rest_of(t, c, param(r, 0));
	return &m->call;
}

static int run_call(struct rpc *r, const struct call *named)
{
	void *args;
	const struct call *c = prepare(r, r->t, named, &args);
	if (!c)
		return -1;
	done_reading(r);
	if (api_call(r->t, c, args) < 0)
		return -1;
	const struct field result = {
		.name = "result", .kind = c->result, .of = c->of, .offset = c->result_offset
	};
	values_put(r->t, r->out, args, &result);
	return 0;
}

static int run_async(struct rpc *r, const struct call *named)
{
	struct task *own = task_new(NULL, r->t->name);
	void *args;
	const struct call *c = prepare(r, own, named, &args);
	if (!c) {
		talloc_free(own);
		return -1;
	}
	own->session = talloc_strdup(own, r->t->session);
	own->peer = talloc_strdup(own, r->t->peer);
	const char *ref = api_call_async(r->t, c, own, args);
	if (!ref)
		return -1;
	r->out->text(r->out, ref);
	return 0;
}

/* ---- what every class has ---- */

static int get_all(struct rpc *r, const struct field *f)
{
	(void)f;
	struct list refs = db_refs(r->t, r->class, NULL, NULL);
	values_put_list(r->out, &refs);
	return 0;
}

/* q NULL: all of them.  One after the other, each with memory of its own: there may be very many.  One that goes
 * meanwhile is left out. */
static void put_matching(struct rpc *r, const struct list *refs, const struct query *q)
{
	r->out->begin(r->out, true);
	for (size_t i = 0; i < refs->n; i++) {
		struct task *own = task_part(r->t);
		const struct row *row = db_seek_row(own, r->class, refs->v[i]);
		if (row && (!q || query_matches(own, q, row))) {
			r->out->key(r->out, row->ref);
			values_put_record(own, r->out, row);
		}
		talloc_free(own);
	}
	r->out->end(r->out, true);
}

static int get_all_records(struct rpc *r, const struct field *f)
{
	(void)f;
	struct list refs = db_refs(r->t, r->class, NULL, NULL);
	put_matching(r, &refs, NULL);
	return 0;
}

static int get_all_records_where(struct rpc *r, const struct field *f)
{
	const char *expr = string(r, 0, "expr"), *value = NULL;
	struct query *q = expr ? query_parse(r->t, r->class, expr) : NULL;
	if (!q)
		return -1;
	f = NULL;
	bool quick = query_needs(q, &f, &value);
	struct list refs = db_refs(r->t, r->class, quick ? f->name : NULL, value);
	put_matching(r, &refs, q);
	return 0;
}

static struct row *object(struct rpc *r)
{
	const char *ref = string(r, 0, "self");
	return ref ? db_get_row(r->t, r->class, ref) : NULL;
}

static int get_record(struct rpc *r, const struct field *f)
{
	(void)f;
	struct row *row = object(r);
	if (!row)
		return -1;
	values_put_record(r->t, r->out, row);
	return 0;
}

static int get_by_uuid(struct rpc *r, const struct field *f)
{
	(void)f;
	const char *uuid = string(r, 0, "uuid");
	struct row *row = uuid ? db_by_uuid_row(r->t, r->class, uuid) : NULL;
	if (!row)
		return -1;
	r->out->text(r->out, row->ref);
	return 0;
}

static int get_by_name_label(struct rpc *r, const struct field *f)
{
	(void)f;
	const char *name = string(r, 0, "label");
	if (!name)
		return -1;
	struct list refs = db_refs(r->t, r->class, "name_label", name);
	values_put_list(r->out, &refs);
	return 0;
}

static int get_field(struct rpc *r, const struct field *f)
{
	struct row *row = object(r);
	if (!row)
		return -1;
	values_put_field(r->t, r->out, row, f);
	return 0;
}

static int done(struct rpc *r, int result)
{
	if (result == 0)
		r->out->nothing(r->out);
	return result;
}

static int set_field(struct rpc *r, const struct field *f)
{
	const char *ref = string(r, 0, "self"),
		   *text = ref ? values_text(r->t, param(r, 1), f) : NULL;
	return text ? done(r, record_set(r->t, r->class, ref, f->name, text)) : -1;
}

static int add_to_map(struct rpc *r, const struct field *f)
{
	const char *ref = string(r, 0, "self"), *key = ref ? string(r, 1, "key") : NULL,
		   *value = key ? string(r, 2, "value") : NULL;
	return value ? done(r, record_map_add(r->t, r->class, ref, f->name, key, value)) : -1;
}

/* The member of a set, or the key of a map. */
static int with_member(struct rpc *r, const struct field *f,
		       int (*deed)(struct task *, const struct class *, const char *ref,
				   const char *field, const char *member))
{
	const char *ref = string(r, 0, "self"), *member = ref ? string(r, 1, "value") : NULL;
	return member ? done(r, deed(r->t, r->class, ref, f->name, member)) : -1;
}

static int remove_from_map(struct rpc *r, const struct field *f)
{
	return with_member(r, f, record_map_remove);
}

static int add_to_set(struct rpc *r, const struct field *f)
{
	return with_member(r, f, record_set_add);
}

static int remove_from_set(struct rpc *r, const struct field *f)
{
	return with_member(r, f, record_set_remove);
}

static bool is_shown(const struct class *c, const struct field *f)
{
	(void)c;
	return f->access != HIDDEN;
}

static bool is_settable_map(const struct class *c, const struct field *f)
{
	return record_is_settable(c, f) && field_is_map(f);
}

static bool is_settable_set(const struct class *c, const struct field *f)
{
	return record_is_settable(c, f) && field_is_set(f);
}

/* A longer prefix stands before a shorter one; `of` tells of which fields there is one, whose name follows. */
static const struct generated {
	const char *name;
	size_t params;
	int (*run)(struct rpc *, const struct field *);
	bool (*of)(const struct class *, const struct field *);
} generated[] = {
	{ "get_all", 0, get_all, NULL },
	{ "get_all_records", 0, get_all_records, NULL },
	{ "get_all_records_where", 1, get_all_records_where, NULL },
	{ "get_record", 1, get_record, NULL },
	{ "get_by_uuid", 1, get_by_uuid, NULL },
	{ "get_by_name_label", 1, get_by_name_label, NULL },
	{ "get_", 1, get_field, is_shown },
	{ "set_", 2, set_field, record_is_settable },
	{ "add_to_", 3, add_to_map, is_settable_map },
	{ "remove_from_", 2, remove_from_map, is_settable_map },
	{ "add_", 2, add_to_set, is_settable_set },
	{ "remove_", 2, remove_from_set, is_settable_set },
};

/* Sessions are secrets: none is told of the others. */
static bool has_whole(const struct class *c, const char *name)
{
	if (streq(name, "get_by_name_label"))
		return model_field(c, "name_label") != NULL;
	return c != &class_session || !starts_with(name, "get_all");
}

static const struct generated *find_generated(const struct class *c, const char *name,
					      const struct field **ret_field)
{
	*ret_field = NULL;
	for (size_t i = 0; c && i < COUNT(generated); i++) {
		const struct generated *g = &generated[i];
		if (!g->of && streq(g->name, name) && has_whole(c, name))
			return g;
		if (!g->of || !starts_with(name, g->name))
			continue;
		const struct field *f = model_field(c, name + strlen(g->name));
		if (f && g->of(c, f)) {
			*ret_field = f;
			return g;
		}
	}
	return NULL;
}

static int run_generated(struct rpc *r, const struct generated *g, const struct field *f)
{
	if (role_check_sees(r->t, r->class, r->method) < 0)
		return -1;
	return check_count(r, g->params, false) < 0 ? -1 : g->run(r, f);
}

/* ---- classes without objects ---- */

static bool is_empty_class(const char *name)
{
	static const char *const all[] = {
#define EMPTY(class) #class,
#include "model/empty.def"
	};
	for (size_t i = 0; i < COUNT(all); i++)
		if (streq(name, all[i]))
			return true;
	return false;
}

static int put_nothing(struct rpc *r, bool map)
{
	r->out->begin(r->out, map);
	r->out->end(r->out, map);
	return 0;
}

/* What every class has, of one that has no objects. */
static int run_empty(struct rpc *r, const char *class)
{
	const char *first = given(r) ? json_string_value(param(r, 0)) : NULL;
	if (streq(r->name, "get_all") || streq(r->name, "get_by_name_label"))
		return put_nothing(r, false);
	if (streq(r->name, "get_all_records") || streq(r->name, "get_all_records_where"))
		return put_nothing(r, true);
	if (streq(r->name, "get_by_uuid"))
		return fail(r->t, UUID_INVALID, class, first ? first : "");
	if (starts_with(r->name, "get_"))
		return fail(r->t, HANDLE_INVALID, class, first ? first : "");
	return unknown(r);
}

/* ---- all methods ---- */

static void put_methods_of(struct rpc *r, const struct class *c)
{
	for (size_t i = 0; i < COUNT(generated); i++) {
		const struct generated *g = &generated[i];
		if (!g->of && has_whole(c, g->name))
			r->out->text(r->out, str(r->t, "%s.%s", c->name, g->name));
		for (const struct field *f = c->fields; g->of && f->name; f++)
			if (g->of(c, f))
				r->out->text(r->out,
					     str(r->t, "%s.%s%s", c->name, g->name, f->name));
	}
}

static int list_methods(struct rpc *r)
{
	r->out->begin(r->out, false);
	for (size_t i = 0; all_calls[i]; i++)
		r->out->text(r->out, all_calls[i]->name);
	for (size_t i = 0; classes[i]; i++)
		put_methods_of(r, classes[i]);
	r->out->text(r->out, "system.listMethods");
	r->out->end(r->out, false);
	return 0;
}

/* ---- one method ---- */

/* "VM_snapshot" is VM.snapshot, too. */
static const char *with_dot(struct task *t, const char *method)
{
	char *s = talloc_strdup(t, method), *at;
	if (strchr(s, '.'))
		return s;
	for (at = strchr(s, '_'); at; at = strchr(at + 1, '_')) {
		*at = 0;
		bool is_class = model_class(s) || is_empty_class(s) || streq(s, "event");
		*at = is_class ? '.' : '_';
		if (is_class)
			break;
	}
	return s;
}

static bool strip(const char **s, const char *prefix)
{
	bool found = starts_with(*s, prefix);
	*s += found ? strlen(prefix) : 0;
	return found;
}

static int begin_session(struct rpc *r)
{
	const char *ref = json_string_value(json_array_get(r->params, 0));
	if (!json_array_size(r->params))
		return fail(r->t, MESSAGE_PARAMETER_COUNT_MISMATCH, r->method, "1", "0");
	r->first = 1;
	return session_check(r->t, ref ? ref : "") ? 0 : -1;
}

/* Who logs in has no session yet, and who logs out gives it as what is to end. */
static bool is_login(const char *method)
{
	return streq(method, "session.login_with_password") || streq(method, "session.logout");
}

static int no_async(struct rpc *r)
{
	return fail(r->t, Fault,
		    str(r->t, "No async mode for this operation (rpc: %s)", r->method));
}

static int run(struct rpc *r, const char *method)
{
	struct task *t = r->t;
	const struct field *f = NULL;
	const char *asked = talloc_strdup(t, method);
	bool async = strip(&asked, "Async.") || strip(&asked, "InternalAsync.");
	r->method = async ? asked : with_dot(t, asked);
	const char *dot = strchr(r->method, '.');
	const char *of = dot ? talloc_strndup(t, r->method, (size_t)(dot - r->method)) : "";
	r->class = model_class(of);
	r->name = dot ? dot + 1 : "";
	if (streq(r->method, "system.listMethods"))
		return list_methods(r);
	const struct call *c = find_call(r->method);
	const struct generated *g = c ? NULL : find_generated(r->class, r->name, &f);
	bool empty = !async && is_empty_class(of);
	if (!c && !g && !empty)
		return unknown(r);
	if (!async && is_login(r->method))
		return run_call(r, c);
	if (begin_session(r) < 0)
		return -1;
	t->session = talloc_strdup(t, json_string_value(json_array_get(r->params, 0)));
	if (empty)
		return run_empty(r, of);
	if (c && role_check(t, c->role, c->name) < 0) /* before anything else is read */
		return -1;
	if (!async)
		return c ? run_call(r, c) : run_generated(r, g, f);
	return c && call_has_async(c) ? run_async(r, c) : no_async(r);
}

int rpc_call(struct task *t, struct task *reader, const char *method, const json_t *params,
	     struct values *out)
{
	struct rpc r = { .t = t, .reader = reader, .params = params, .out = out };
	int result = run(&r, method);
	done_reading(&r);
	return result;
}
