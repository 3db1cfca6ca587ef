// SPDX-License-Identifier: Apache-2.0
#include "db/events.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "db/db.h"
#include "db/sql.h"
#include "model/model.h"

int64_t db_generation(void)
{
	db_lock();
	int64_t now = db.stored;
	db_unlock();
	return now;
}

/* ---- waiting ---- */

/* A descriptor each, for a task waits for its cancel at the same time. */
struct waiter {
	struct waiter *next;
	int fd;
};

void wake_waiters(void)
{
	uint64_t one = 1;
	for (struct waiter *w = db.waiters; w; w = w->next)
		if (write(w->fd, &one, sizeof one) < 0)
			continue; /* the counter is full: it is readable already */
}

/* In the list unless there is nothing to wait for. */
static int64_t enlist(struct waiter *w, int64_t generation)
{
	db_lock();
	int64_t now = db.stored;
	if (now <= generation) {
		w->next = db.waiters;
		db.waiters = w;
	}
	db_unlock();
	return now;
}

static int64_t delist(const struct waiter *w)
{
	db_lock();
	for (struct waiter **at = &db.waiters; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			break;
		}
	int64_t now = db.stored;
	db_unlock();
	return now;
}

int64_t db_wait(struct task *t, int64_t generation, int ms)
{
	FD_SCOPE int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct waiter w = { .fd = fd };
	if (fd < 0)
		return task_fail_errno(t, errno, "eventfd");
	if (task_check(t) < 0)
		return -1;
	int64_t now = enlist(&w, generation);
	if (now > generation)
		return now;
	int result = task_wait(t, fd, POLLIN, ms);
	now = delist(&w);
	return result < 0 ? -1 : now;
}

int64_t db_pace(void)
{
	db_lock();
	int64_t ms = db.committed_ms - db.committed_before_ms;
	db_unlock();
	return ms;
}

struct changed *db_changed(struct task *t, const struct class *c, int64_t since)
{
	size_t n = 0;
	struct changed *all = talloc_zero_array(t, struct changed, 1);
	const char *sql =
		str(all, "SELECT ref, gen, born FROM \"%s\" WHERE gen > ? ORDER BY gen", c->name);
	sqlite3_stmt *s = sql_prepare(sql, str(all, "%lld", (long long)since), NULL);
	while (sql_step(s) == SQLITE_ROW) {
		all = talloc_realloc(t, all, struct changed, n + 2);
		all[n++] = (struct changed){
			.ref = talloc_strdup(all, sql_text(s, 0)),
			.gen = sqlite3_column_int64(s, 1),
			.born = sqlite3_column_int64(s, 2),
		};
		all[n] = (struct changed){ 0 };
	}
	sql_done(s);
	return all;
}

struct deleted *db_deleted(struct task *t, int64_t since)
{
	size_t n = 0;
	struct deleted *all = talloc_zero_array(t, struct deleted, 1);
	const char *text = str(t, "%lld", (long long)since);
	db_lock();
	sqlite3_stmt *s = sql_prepare("SELECT 1 FROM forgotten WHERE gen > ?", text, NULL);
	bool lost = sql_step(s) == SQLITE_ROW;
	sql_done(s);
	s = sql_prepare("SELECT class, ref, gen FROM deleted WHERE gen > ?1 AND born <= ?1 "
			"ORDER BY gen",
			text, NULL);
	while (!lost && sql_step(s) == SQLITE_ROW) {
		all = talloc_realloc(t, all, struct deleted, n + 2);
		all[n++] = (struct deleted){
			.class = talloc_strdup(t, sql_text(s, 0)),
			.ref = talloc_strdup(t, sql_text(s, 1)),
			.gen = sqlite3_column_int64(s, 2),
		};
		all[n] = (struct deleted){ 0 };
	}
	sql_done(s);
	db_unlock();
	return lost ? fail_ptr(t, EVENTS_LOST) : all;
}

int db_forget_deleted(struct task *t, int64_t keep)
{
	static const char *const steps[] = {
		"UPDATE forgotten SET gen = max(gen, coalesce((SELECT gen FROM deleted "
		"ORDER BY gen DESC LIMIT 1 OFFSET ?), 0))",
		"DELETE FROM deleted WHERE gen <= (SELECT gen FROM forgotten)",
	};
	DB_SCOPE(t);
	for (size_t i = 0; i < COUNT(steps); i++) {
		sqlite3_stmt *s = sql_prepare(steps[i], NULL);
		if (i == 0)
			sqlite3_bind_int64(s, 1, keep);
		if (sql_write(t, s) < 0)
			return -1;
	}
	return db_commit(t);
}
