// SPDX-License-Identifier: Apache-2.0
/* test_db.c -- transactions within transactions: what is rolled back has changed nothing; and who has
 * the next one. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/task.h"
#include "db/db.h"
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
	CHECK(mkdtemp(path));
	struct task *t = task_new(NULL, "test");
	CHECK(db_open(t, str(t, "%s/state.db", path)) == 0);
	test_commits(t);
	test_an_inner_one_fails(t);
	test_an_outer_one_fails(t);
	test_depths(t);
	test_turns(t);
	db_close();
	for (const char *const *f = (const char *const[]){ "", "-wal", "-shm", NULL }; *f; f++)
		unlink(str(t, "%s/state.db%s", path, *f));
	CHECK(rmdir(path) == 0);
	talloc_free(t);
	return 0;
}
