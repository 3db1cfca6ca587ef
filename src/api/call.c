// SPDX-License-Identifier: Apache-2.0
/* call.c -- runs calls behind rows of class task. */
#include "api/call.h"

#include <pthread.h>

#include "api/audit.h"
#include "api/masked.h"
#include "api/session.h"
#include "api/settings.h"
#include "api/tasks.h"
#include "api/undo.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/peer.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* Each CALL row as a function of one type, and as a row of data.  In the table of its arguments `self` is their
 * struct. */
#define ARG(kind, of, name) { #name, kind, #of, offsetof(self, name), false },
#define OPT(kind, of, name) { #name, kind, #of, offsetof(self, name), true },
#define CALL(class_, name_, kind_, of_, least_, doc_, ...)                                         \
	static int run_##class_##_##name_(struct task *t, void *args)                              \
	{                                                                                          \
		return class_##_##name_(t, args);                                                  \
	}                                                                                          \
	static const struct arg *args_##class_##_##name_(void)                                     \
	{                                                                                          \
		typedef struct class_##_##name_ self __attribute__((unused));                      \
		static const struct arg args[] = { __VA_ARGS__{ NULL, VOID, NULL, 0, false } };    \
		return args;                                                                       \
	}                                                                                          \
	const struct call call_##class_##_##name_ = {                                              \
		.name = #class_ "." #name_,                                                        \
		.result = kind_,                                                                   \
		.of = #of_,                                                                        \
		.role = role_##least_,                                                             \
		.size = sizeof(struct class_##_##name_),                                           \
		.result_offset = offsetof(struct class_##_##name_, result),                        \
		.run = run_##class_##_##name_,                                                     \
		.args = args_##class_##_##name_,                                                   \
	};
#include "model/calls.def"

const struct call *const all_calls[] = {
#define ARG(...)
#define OPT(...)
#define CALL(class, name, ...) &call_##class##_##name,
#include "model/calls.def"
	NULL,
};

/* ---- running calls, so that they can be cancelled ---- */

struct running {
	struct running *next;
	struct task *task;
	const char *behind; /* whose call behind Async it is; NULL: the caller waits for it */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	struct running *first;
	bool closing; /* the daemon ends */
} calls = { .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER };

static void enlist(struct running *r)
{
	pthread_mutex_lock(&calls.lock);
	r->next = calls.first;
	calls.first = r;
	if (calls.closing)
		task_interrupt(r->task);
	pthread_mutex_unlock(&calls.lock);
}

/* A call that begins while the daemon ends would be cancelled at once. */
static int check_open(struct task *t)
{
	pthread_mutex_lock(&calls.lock);
	bool closing = calls.closing;
	pthread_mutex_unlock(&calls.lock);
	return closing ? fail(t, OPERATION_NOT_ALLOWED, "the server is being stopped") : 0;
}

static void delist(struct running *r)
{
	pthread_mutex_lock(&calls.lock);
	struct running **at = &calls.first;
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	pthread_cond_broadcast(&calls.ended);
	pthread_mutex_unlock(&calls.lock);
}

static bool interrupt(const char *ref)
{
	bool found = false;
	pthread_mutex_lock(&calls.lock);
	for (struct running *r = calls.first; r; r = r->next)
		if (streq(r->task->ref, ref)) {
			task_interrupt(r->task);
			found = true;
		}
	pthread_mutex_unlock(&calls.lock);
	return found;
}

static int64_t how_many_behind(const char *user)
{
	int64_t n = 0;
	pthread_mutex_lock(&calls.lock);
	for (struct running *r = calls.first; r; r = r->next)
		n += r->behind && streq(r->behind, user);
	pthread_mutex_unlock(&calls.lock);
	return n;
}

static bool is_running(const char *op)
{
	bool found = false;
	pthread_mutex_lock(&calls.lock);
	for (struct running *r = calls.first; r; r = r->next)
		found |= starts_with(op, r->task->ref);
	pthread_mutex_unlock(&calls.lock);
	return found;
}

/* ---- the row ---- */

struct row_sink {
	struct task_sink sink;
	const char *ref;
};

/* Progress is worth no error: a row that cannot be written now is written at the end. */
static void show_progress(struct task_sink *sink, double fraction)
{
	struct row_sink *s = (struct row_sink *)sink;
	struct task *t = task_new(NULL, "progress");
	{
		DB_SCOPE(t);
		struct task_row *row = db_seek(t, task, s->ref);
		if (row) {
			row->progress = fraction;
			if (db_put(t, &row->row) == 0)
				db_commit(t);
		}
	}
	talloc_free(t);
}

/* The row that a client has made is the server's own from here on.  The row may have become another request's since it
 * was looked at: two calls behind one row would undo each other. */
static const char *row_adopt(struct task *t)
{
	DB_SCOPE(t);
	struct task_row *row = db_get(t, task, t->adopts);
	t->adopts = "";
	if (!row || task_check_adoptable(t, row) < 0)
		return NULL;
	row->of_client = false;
	return db_put(t, &row->row) < 0 || db_commit(t) < 0 ? NULL : row->row.ref;
}

/* name: clients look for the tasks that they have begun by it. */
static const char *row_begin(struct task *t, const char *name)
{
	if (*t->adopts)
		return row_adopt(t);
	const char *owner = session_user(t);
	DB_SCOPE(t);
	if (tasks_make_room(t, owner) < 0)
		return NULL;
	struct task_row *row = row_new(t, task);
	row->name_label = name;
	row->created = time_now(row);
	row->resident_on = this_host();
	row->type = "<none/>";
	row->owner = owner;
	if (db_insert(t, &row->row) < 0 || db_commit(t) < 0)
		return NULL;
	return row->row.ref;
}

static const char *set_text(const void *ctx, const struct list *l)
{
	char *members = talloc_strdup(ctx, "");
	for (size_t i = 0; i < l->n; i++)
		members = talloc_asprintf_append(members, "<value>%s</value>",
						 text_xml(ctx, l->v[i]));
	return str(ctx, "<value><array><data>%s</data></array></value>", members);
}

static const char *result_text(const void *ctx, const struct call *c, void *args)
{
	const void *at = (char *)args + c->result_offset;
	switch (c->result) {
	case STRING:
	case REF:
		return str(ctx, "<value>%s</value>", text_xml(ctx, *(const char *const *)at));
	case INT:
		return str(ctx, "<value>%lld</value>", (long long)*(const int64_t *)at);
	case STRING_SET:
	case REF_SET:
		return set_text(ctx, at);
	default:
		return "";
	}
}

static const struct call *const without_async[] = {
#define NO_ASYNC(class, name) &call_##class##_##name,
#include "model/no_async.def"
};

bool call_has_async(const struct call *c)
{
	static const enum kind kinds[] = { VOID, STRING, REF, INT, STRING_SET, REF_SET };
	bool fits = false;
	for (size_t i = 0; i < COUNT(kinds); i++)
		fits |= c->result == kinds[i];
	for (size_t i = 0; i < COUNT(without_async); i++)
		fits &= c != without_async[i];
	return fits;
}

/* How a call ended: what its row says from then on, if it stays. */
struct end {
	struct end *next;
	const char *ref, *result, *finished;
	enum task_status_type status;
	struct list error_info;
	bool goes;
};

/* Those that could not be written, for tasks_retry_undo(); calls.lock held. */
static struct end *unwritten;

static struct end *end_new(struct task *t, const char *ref, const struct call *c, void *args,
			   const struct task *how)
{
	struct end *e = talloc_zero(NULL, struct end);
	e->ref = talloc_strdup(e, ref);
	e->finished = time_now(e);
	if (how->code == NO_ERROR) {
		e->status = task_status_type_success;
		e->result = result_text(e, c, args);
		return e;
	}
	e->status =
		how->code == TASK_CANCELLED ? task_status_type_cancelled : task_status_type_failure;
	struct list info = masked_error_info(t, how);
	e->result = "";
	e->error_info = list_copy(e, &info);
	return e;
}

static int end_write(struct task *t, const struct end *e)
{
	DB_SCOPE(t);
	struct task_row *row = db_get(t, task, e->ref);
	if (!row)
		return -1;
	row->finished = e->finished;
	row->progress = 1;
	row->status = e->status;
	row->result = e->result;
	row->error_info = list_copy(row, &e->error_info);
	if ((row->doomed || e->goes ? db_delete(t, &row->row) : db_put(t, &row->row)) < 0)
		return -1;
	return db_commit(t);
}

/* One that cannot be written now is kept: nobody shall wait for ever for a task that has ended. */
static void end_record(struct task *t, struct end *e)
{
	if (end_write(t, e) == 0 || t->code == HANDLE_INVALID) {
		task_forgive(t);
		talloc_free(e);
		return;
	}
	log_line(t, "task not recorded ref=%s error=\"%s\"", e->ref, task_error(t));
	task_forgive(t);
	pthread_mutex_lock(&calls.lock);
	e->next = unwritten;
	unwritten = e;
	pthread_mutex_unlock(&calls.lock);
}

void task_of_command_ends(struct task *t, const char *ref)
{
	struct task *own = task_new(t, t->name);
	struct end *e = talloc_zero(NULL, struct end);
	e->ref = talloc_strdup(e, ref);
	e->goes = true;
	end_record(own, e);
	talloc_free(own);
}

static void retry_ends(struct task *t)
{
	pthread_mutex_lock(&calls.lock);
	struct end *e = unwritten;
	unwritten = NULL;
	pthread_mutex_unlock(&calls.lock);
	for (struct end *next; e; e = next) {
		next = e->next;
		end_record(t, e);
	}
}

/* ---- a call ---- */

/* What it is done to: the first reference that it was given. */
static const char *object_of(const struct call *c, const void *args)
{
	for (const struct arg *a = c->args ? c->args() : NULL; a && a->name; a++)
		if (a->kind == REF)
			return *(const char *const *)((const char *)args + a->offset);
	return "";
}

static bool is_own(const struct task *t)
{
	return (!t->session || !*t->session) && !*t->adopts;
}

/* awaited: the caller has the result, and nobody else asks for it.  Of the daemon's own work operators are to see what
 * failed. */
static void finish(struct task *t, const struct call *c, void *args, bool awaited)
{
	const char *object = object_of(c, args);
	if (c->role != role_read_only) /* what only looks pushes no deed out of the trail */
		audit(t, c->name, object ? object : "");
	struct task *own = task_new(t, t->name);
	struct end *e = end_new(own, t->ref, c, args, t);
	e->goes = awaited || (is_own(t) && t->code == NO_ERROR);
	end_record(own, e);
	if (t->code != NO_ERROR)
		log_line(t, "call failed call=%s error=\"%s\" place=%s", c->name,
			 masked_error(own, t), t->place ? t->place : "-");
	talloc_free(own);
}

static int call_quietly(struct task *t, const struct call *c, void *args)
{
	t->cancellable = true;
	int result = c->run(t, args);
	t->cancellable = false;
	return result;
}

/* A call behind its row, which clients see. */
struct begun {
	struct task *task;
	const struct call *call;
	void *args;
	const char *ref;
	struct row_sink sink;
	struct running me;
};

/* behind: whose call behind Async it is, or NULL. */
static int begin(struct task *t, const struct call *c, const char *name, void *args,
		 const char *behind, struct begun *b)
{
	task_rest(t, -1); /* it may take long */
	*b = (struct begun){ .task = t, .call = c, .args = args, .ref = row_begin(t, name) };
	b->me.behind = behind;
	if (!b->ref)
		return -1;
	t->scope = talloc_new(t);
	b->sink = (struct row_sink){ .sink.progress = show_progress, .ref = b->ref };
	b->me.task = t;
	t->ref = t->op = b->ref;
	t->sink = &b->sink.sink;
	t->cancellable = true;
	t->lo = t->shown = 0;
	t->hi = 1;
	enlist(&b->me);
	return 0;
}

static int run(struct begun *b, bool awaited)
{
	struct task *t = b->task;
	int result = b->call->run(t, b->args);
	t->sink = NULL;
	t->cancellable = false;
	if (result < 0)
		undo_run(t);
	undo_after(t);
	talloc_free(t->scope);
	t->scope = t;
	finish(t, b->call, b->args, awaited);
	delist(&b->me);
	t->ref = t->op = "";
	return result;
}

/* These only look, or change one row: a row of class task each would be the most of it. */
static bool is_light(const struct call *c)
{
	static const char *const of[] = { "event.", "session.", "role.", "task." };
	bool found = strstr(c->name, ".get_");
	for (size_t i = 0; i < COUNT(of); i++)
		found |= starts_with(c->name, of[i]);
	return found;
}

int api_call(struct task *t, const struct call *c, void *args)
{
	struct begun b;
	bool awaited = (c->args || c->waited) && t->session && *t->session && !*t->adopts;
	if (role_check(t, c->role, c->name) < 0)
		return -1;
	if (is_light(c))
		return call_quietly(t, c, args);
	if (check_open(t) < 0)
		return -1;
	return begin(t, c, c->name, args, NULL, &b) < 0 ? -1 : run(&b, awaited);
}

/* Calls of clients of the network come after those that are made on the machine itself. */
static void *run_behind(void *arg)
{
	struct begun *b = arg;
	db_give_way(peer_is_remote(b->task->peer));
	run(b, false);
	talloc_free(b->task);
	return NULL;
}

static int check_behind(struct task *t, const char *user)
{
	return how_many_behind(user) < ASYNC_OF_USER_LIMIT ? 0 : fail(t, TOO_BUSY);
}

const char *api_call_async(struct task *t, const struct call *c, struct task *own, void *args)
{
	struct begun *b = talloc(own, struct begun);
	const char *ref = NULL, *user = session_user(own);
	pthread_t thread;
	const char *name = str(own, "Async.%s", c->name);
	if (role_check(own, c->role, c->name) == 0 && check_open(own) == 0 &&
	    check_behind(own, user) == 0 && begin(own, c, name, args, user, b) == 0)
		ref = talloc_strdup(t, b->ref);
	int err = ref ? pthread_create(&thread, NULL, run_behind, b) : 0;
	if (ref && !err) {
		pthread_detach(thread);
		return ref;
	}
	if (err) {
		task_fail_errno(own, err, "a thread for the call");
		finish(own, c, args, false);
		delist(&b->me);
	}
	task_fail_params(t, own->code, own->params);
	talloc_free(own);
	return NULL;
}

/* ---- tasks as objects ---- */

int task_cancel(struct task *t, struct task_cancel *a)
{
	struct task_row *row = db_get(t, task, a->task);
	if (!row || task_check_owner(t, row, "task.cancel/any") < 0)
		return -1;
	if (row->status != task_status_type_pending || !interrupt(a->task))
		return fail(t, OPERATION_NOT_ALLOWED, "the task has ended already");
	return 0;
}

bool tasks_close(int ms)
{
	int64_t until = clock_ms() + ms;
	pthread_mutex_lock(&calls.lock);
	calls.closing = true;
	for (struct running *r = calls.first; r; r = r->next)
		task_interrupt(r->task);
	while (calls.first && clock_ms() < until)
		clock_wait(&calls.ended, &calls.lock, until);
	bool ended = !calls.first;
	pthread_mutex_unlock(&calls.lock);
	return ended;
}

void tasks_retry_undo(struct task *t)
{
	retry_ends(t);
	for (struct journal_row *j = journal_rows(t, NULL); j->nr; j++)
		if (!is_running(j->op))
			undo_behind(t, j->op);
}
