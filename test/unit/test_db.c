// SPDX-License-Identifier: Apache-2.0
/* test_db.c -- transactions within transactions: what is rolled back has changed nothing.  What goes wrong with one
 * fails, and ends no process.  And who has the next one. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"
#include "unit/check.h"

static bool is_there(struct task *t, const char *name)
{
	return *db_find(t, &class_VM, "name_label", name) != NULL;
}

static int insert(struct task *t, const char *name)
{
	struct VM_row *vm = row_new(t, VM);
	vm->name_label = name;
	return db_insert(t, &vm->row);
}

/* fails: it has written by then. */
static int inner(struct task *t, const char *name, bool fails)
{
	DB_SCOPE(t);
	CHECK(insert(t, name) == 0 && is_there(t, name));
	return fails ? fail(t, INTERNAL_ERROR, "made to fail") : db_commit(t);
}

static void test_commits(struct task *t)
{
	DB_SCOPE(t);
	CHECK(insert(t, "outer") == 0 && inner(t, "inner", false) == 0 && db_commit(t) == 0);
	CHECK(is_there(t, "outer") && is_there(t, "inner"));
}

/* The outer one goes on after an error that was dealt with. */
static void test_an_inner_one_fails(struct task *t)
{
	DB_SCOPE(t);
	CHECK(insert(t, "before") == 0 && inner(t, "failed", true) == -1 && !is_there(t, "failed"));
	task_forgive(t);
	CHECK(inner(t, "after", false) == 0 && db_commit(t) == 0);
	CHECK(is_there(t, "before") && is_there(t, "after") && !is_there(t, "failed"));
}

static int outer(struct task *t)
{
	DB_SCOPE(t);
	CHECK(inner(t, "of an outer one that fails", false) == 0);
	return fail(t, INTERNAL_ERROR, "made to fail");
}

static void test_an_outer_one_fails(struct task *t)
{
	CHECK(outer(t) == -1 && !is_there(t, "of an outer one that fails"));
	task_forgive(t);
}

/* Each with a row before and one behind what is inside. */
static int nested(struct task *t, int depth, int fails_at)
{
	DB_SCOPE(t);
	CHECK(insert(t, str(t, "nested %d", depth)) == 0);
	if (depth < 5 && nested(t, depth + 1, fails_at) < 0)
		task_forgive(t);
	return depth == fails_at ? fail(t, INTERNAL_ERROR, "made to fail") : db_commit(t);
}

static void test_depths(struct task *t)
{
	CHECK(nested(t, 0, 3) == 0);
	for (int i = 0; i <= 5; i++)
		CHECK(is_there(t, str(t, "nested %d", i)) == (i < 3));
}

/* ---- a further task of the same thread ---- */

static int of_another_task(const char *name, bool fails)
{
	struct task *other = task_new(NULL, "other");
	int result = inner(other, name, fails);
	talloc_free(other);
	return result;
}

static int outer_of_another(struct task *t)
{
	DB_SCOPE(t);
	CHECK(of_another_task("of a failing outer one", false) == 0);
	return fail(t, INTERNAL_ERROR, "made to fail");
}

/* It has nothing to commit, and the other task was told that its row is kept. */
static int looks_only(struct task *t)
{
	DB_SCOPE(t);
	return of_another_task("within one that looks", false);
}

static void test_another_task(struct task *t)
{
	{
		DB_SCOPE(t);
		CHECK(of_another_task("another task's", false) == 0);
		CHECK(of_another_task("another task's that fails", true) == -1);
		CHECK(insert(t, "behind it") == 0 && db_commit(t) == 0);
	}
	CHECK(is_there(t, "another task's") && is_there(t, "behind it"));
	CHECK(!is_there(t, "another task's that fails"));
	CHECK(outer_of_another(t) == -1 && !is_there(t, "of a failing outer one"));
	task_forgive(t);
	CHECK(looks_only(t) == 0 && is_there(t, "within one that looks"));
	CHECK(of_another_task("afterwards", false) == 0 && is_there(t, "afterwards"));
}

/* ---- a row that somebody else has written ---- */

static int rename_to(struct task *t, struct VM_row *vm, const char *name)
{
	DB_SCOPE(t);
	vm->name_label = name;
	return db_put(t, &vm->row) < 0 ? -1 : db_commit(t);
}

static void test_a_lost_race(struct task *t)
{
	CHECK(inner(t, "raced", false) == 0);
	struct VM_row *mine = *(struct VM_row **)db_find(t, &class_VM, "name_label", "raced");
	struct VM_row *theirs = db_get(t, VM, mine->row.ref);
	CHECK(rename_to(t, theirs, "first") == 0);
	CHECK(rename_to(t, mine, "second") == -1 && t->code == OTHER_OPERATION_IN_PROGRESS);
	CHECK(streq(t->params[1], mine->row.ref));
	task_forgive(t);
	CHECK(streq(db_get(t, VM, mine->row.ref)->name_label, "first"));
	CHECK(rename_to(t, db_get(t, VM, mine->row.ref), "second") == 0);
}

/* ---- a database that another program keeps ---- */

static int only_reads(struct task *t)
{
	DB_SCOPE(t);
	CHECK(is_there(t, "outer"));
	return 0;
}

static int writes(struct task *t, const char *name)
{
	DB_SCOPE(t);
	return insert(t, name) < 0 ? -1 : db_commit(t);
}

/* The same, one deeper. */
static int writes_within(struct task *t)
{
	DB_SCOPE(t);
	CHECK(writes(t, "within one that did not begin") == -1);
	return -1;
}

static void test_kept_by_another(struct task *t, const char *path)
{
	sqlite3 *other;
	CHECK(sqlite3_open(path, &other) == SQLITE_OK);
	CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
	CHECK(only_reads(t) == 0 && t->code == NO_ERROR);
	CHECK(writes(t, "kept out") == -1 && t->code == INTERNAL_ERROR);
	CHECK(strstr(t->params[0], "locked"));
	task_forgive(t);
	CHECK(writes_within(t) == -1 && t->code == INTERNAL_ERROR);
	task_forgive(t);
	CHECK(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
	CHECK(sqlite3_close(other) == SQLITE_OK);
	CHECK(!is_there(t, "kept out") && !is_there(t, "within one that did not begin"));
	CHECK(writes(t, "let in") == 0 && is_there(t, "let in"));
}

/* ---- what is remembered of deletions ---- */

static void come_and_go(struct task *t, int n)
{
	DB_SCOPE(t);
	struct secret_row *s = row_new(t, secret);
	for (int i = 0; i < n; i++) {
		s->row.gen = 0;
		CHECK(db_insert(t, &s->row) == 0 && db_delete(t, &s->row) == 0);
	}
	CHECK(db_commit(t) == 0);
}

static int remembered(const char *path)
{
	sqlite3 *other;
	sqlite3_stmt *s;
	CHECK(sqlite3_open(path, &other) == SQLITE_OK);
	CHECK(sqlite3_prepare_v2(other, "SELECT count(*) FROM deleted", -1, &s, NULL) == SQLITE_OK);
	CHECK(sqlite3_step(s) == SQLITE_ROW);
	int n = sqlite3_column_int(s, 0);
	CHECK(sqlite3_finalize(s) == SQLITE_OK && sqlite3_close(other) == SQLITE_OK);
	return n;
}

static void test_deletions_are_not_kept_for_ever(struct task *t, const char *path)
{
	int64_t before = db_generation();
	come_and_go(t, DELETED_LIMIT + 2 * DELETED_SLACK);
	CHECK(!db_deleted(t, before) && t->code == EVENTS_LOST);
	task_forgive(t);
	int n = remembered(path);
	CHECK(n >= DELETED_LIMIT && n <= DELETED_LIMIT + DELETED_SLACK);
}

/* ---- who has the next one ---- */

enum { CROWD = 4 };

static struct {
	pthread_mutex_t lock;
	char order[CROWD + 2]; /* 'c' of the crowd, 'f' one that does not give way */
	size_t n;
} turns = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct waiter {
	pthread_t thread;
	char kind;
	_Atomic pid_t tid; /* 0: it has not begun yet */
};

static void *take_turn(void *arg)
{
	struct waiter *w = arg;
	struct task *t = task_new(NULL, "waiter");
	db_give_way(w->kind == 'c');
	w->tid = (pid_t)syscall(SYS_gettid);
	db_begin(t);
	pthread_mutex_lock(&turns.lock);
	turns.order[turns.n++] = w->kind;
	pthread_mutex_unlock(&turns.lock);
	db_rollback(t);
	talloc_free(t);
	return NULL;
}

static bool sleeps(pid_t tid)
{
	char path[64], state = 0;
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	FILE *f = fopen(path, "re");
	CHECK(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1);
	fclose(f);
	return state == 'S';
}

static void begin_to_wait(struct waiter *w, char kind)
{
	*w = (struct waiter){ .kind = kind };
	CHECK(pthread_create(&w->thread, NULL, take_turn, w) == 0);
	while (!w->tid || !sleeps(w->tid))
		usleep(1000);
}

/* Whoever came first: one that does not give way goes before the crowd. */
static void test_turns(struct task *t)
{
	struct waiter w[CROWD + 1];
	db_begin(t);
	for (int i = 0; i < CROWD; i++)
		begin_to_wait(&w[i], 'c');
	begin_to_wait(&w[CROWD], 'f');
	db_rollback(t);
	for (int i = 0; i < CROWD + 1; i++)
		CHECK(pthread_join(w[i].thread, NULL) == 0);
	CHECK(streq(turns.order, "fcccc"));
}

int main(void)
{
	char path[] = "/tmp/stillframe-db-XXXXXX";
	CHECK(mkdtemp(path) && !delay_scale("db-busy=0.001"));
	struct task *t = task_new(NULL, "test");
	CHECK(db_open(t, str(t, "%s/state.db", path)) == 0);
	test_commits(t);
	test_an_inner_one_fails(t);
	test_an_outer_one_fails(t);
	test_depths(t);
	test_another_task(t);
	test_a_lost_race(t);
	test_kept_by_another(t, str(t, "%s/state.db", path));
	test_deletions_are_not_kept_for_ever(t, str(t, "%s/state.db", path));
	test_turns(t);
	db_close();
	for (const char *const *f = (const char *const[]){ "", "-wal", "-shm", NULL }; *f; f++)
		unlink(str(t, "%s/state.db%s", path, *f));
	CHECK(rmdir(path) == 0);
	talloc_free(t);
	return 0;
}
