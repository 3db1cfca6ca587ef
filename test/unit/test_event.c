// SPDX-License-Identifier: Apache-2.0
/* test_event.c -- event.from: nothing is lost, nothing is told that came and went, and waiting
 * ends when something happens. */
#include <pthread.h>
#include <unistd.h>

#include "api/call.h"
#include "api/event.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"
#include "unit/check.h"

static struct VM_row *insert(struct task *t, const char *name)
{
	struct VM_row *vm = row_new(t, VM);
	vm->name_label = name;
	DB_SCOPE(t);
	CHECK(db_insert(t, &vm->row) == 0 && db_commit(t) == 0);
	return vm;
}

static void rename_to(struct task *t, const char *ref, const char *name)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	vm->name_label = name;
	CHECK(db_put(t, &vm->row) == 0 && db_commit(t) == 0);
}

static void drop(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	CHECK(db_delete(t, db_get_row(t, &class_VM, ref)) == 0 && db_commit(t) == 0);
}

static struct event_batch *from(struct task *t, const char *wanted, const char *token, double timeout)
{
	struct event_from a = { .token = token, .timeout = timeout };
	a.classes = list_split(t, wanted, ' ');
	return call(t, event_from, &a) == 0 ? a.result : NULL;
}

static const struct event *of(const struct event_batch *b, const char *ref)
{
	for (size_t i = 0; i < b->n; i++)
		if (streq(b->v[i].ref, ref))
			return &b->v[i];
	return NULL;
}

static void test_what_is_told(struct task *t)
{
	struct VM_row *a = insert(t, "a"), *b = insert(t, "b");
	struct event_batch *all = from(t, "vm", "", 0);
	CHECK(all->n == 2 && streq(map_get(&all->valid_ref_counts, "vm"), "2"));
	CHECK(of(all, a->row.ref)->operation == event_operation_add);
	CHECK(streq(of(all, a->row.ref)->class, "vm"));

	rename_to(t, a->row.ref, "a2");
	drop(t, b->row.ref);
	struct VM_row *c = insert(t, "c"), *brief = insert(t, "came and went");
	rename_to(t, c->row.ref, "c2");
	drop(t, brief->row.ref);
	struct event_batch *more = from(t, "VM", all->token, 0);
	CHECK(more->n == 3);
	CHECK(streq(more->v[0].ref, c->row.ref)); /* added ones first */
	CHECK(more->v[0].operation == event_operation_add);
	CHECK(of(more, a->row.ref)->operation == event_operation_mod);
	CHECK(streq(((const struct VM_row *)event_object(t, of(more, a->row.ref)))->name_label, "a2"));
	CHECK(of(more, b->row.ref)->operation == event_operation_del &&
	      !event_object(t, of(more, b->row.ref)));
	struct event gone = { .operation = event_operation_mod, .class = "vm", .ref = b->row.ref };
	CHECK(!event_object(t, &gone));
	CHECK(!of(more, brief->row.ref));
	CHECK(from(t, "vm", more->token, 0)->n == 0);

	const char *only = str(t, "vdi vm/%s", c->row.ref);
	CHECK(from(t, only, all->token, 0)->n == 1);
	CHECK(from(t, "*", all->token, 0)->n == 3);
	CHECK(from(t, "nonsense", "", 0)->n == 0);

	struct event_inject i = { .class = "vm", .ref = c->row.ref };
	CHECK(call(t, event_inject, &i) == 0);
	CHECK(of(from(t, "vm", more->token, 0), c->row.ref)->operation == event_operation_mod);
	CHECK(from(t, "vm", i.result, 0)->n == 0);
}

static void refused(struct task *t, const char *wanted, const char *token, enum code code)
{
	CHECK(!from(t, wanted, token, 0));
	CHECK(t->code == code);
	task_forgive(t);
}

static void test_what_is_refused(struct task *t)
{
	refused(t, "vm", "7", EVENT_FROM_TOKEN_PARSE_FAILURE);
	refused(t, "vm", "a,b", EVENT_FROM_TOKEN_PARSE_FAILURE);
	refused(t, "vm", "-1,-1", EVENT_FROM_TOKEN_PARSE_FAILURE);
	refused(t, "vm", "9000000000000000000,0", EVENT_FROM_TOKEN_PARSE_FAILURE);
	refused(t, "vm/", "", EVENT_SUBSCRIPTION_PARSE_FAILURE);
	refused(t, "vm/a/b", "", EVENT_SUBSCRIPTION_PARSE_FAILURE);
}

static void *rename_later(void *ref)
{
	usleep(200000);
	struct task *t = task_new(NULL, "later");
	rename_to(t, ref, "later");
	talloc_free(t);
	return NULL;
}

static void test_waiting(struct task *t)
{
	pthread_t thread;
	struct VM_row *vm = insert(t, "w");
	const char *ref = talloc_strdup(t, vm->row.ref);
	struct event_batch *now = from(t, "vm", "", 0);
	int64_t begin = clock_ms();
	CHECK(from(t, "sr", now->token, 0.1)->n == 0 && clock_ms() - begin >= 100);
	pthread_create(&thread, NULL, rename_later, (void *)(uintptr_t)ref);
	begin = clock_ms();
	struct event_batch *b = from(t, "vm", now->token, 60);
	CHECK(b->n == 1 && streq(b->v[0].ref, ref));
	CHECK(clock_ms() - begin < 30000);
	pthread_join(thread, NULL);
}

/* Deletions that are forgotten are missed by those who have not seen them: they are told. */
static void test_forgetting(struct task *t)
{
	struct event_batch *early = from(t, "vm", "", 0);
	drop(t, insert(t, "x")->row.ref);
	struct event_batch *late = from(t, "vm", early->token, 0);
	drop(t, insert(t, "y")->row.ref);
	CHECK(db_forget_deleted(t, 1) == 0);
	CHECK(from(t, "vm", late->token, 0));
	refused(t, "vm", early->token, EVENTS_LOST);
	CHECK(from(t, "vm", "", 0));
}

int main(void)
{
	char path[] = "/tmp/stillframe-event-XXXXXX";
	CHECK(mkdtemp(path));
	struct task *t = task_new(NULL, "test");
	CHECK(db_open(t, str(t, "%s/state.db", path)) == 0);
	test_what_is_told(t);
	test_what_is_refused(t);
	test_waiting(t);
	test_forgetting(t);
	db_close();
	for (const char *const *f = (const char *const[]){ "", "-wal", "-shm", NULL }; *f; f++)
		unlink(str(t, "%s/state.db%s", path, *f));
	CHECK(rmdir(path) == 0);
	talloc_free(t);
	return 0;
}
