// SPDX-License-Identifier: Apache-2.0
#include "db/events.h"

#include <time.h>

#include "base/task.h"
#include "db/db.h"
#include "db/sql.h"

int64_t db_generation(void)
{
	pthread_mutex_lock(&db.lock);
	int64_t now = db.stored;
	pthread_mutex_unlock(&db.lock);
	return now;
}

/* A cancelled task cannot wake the condition: it is looked at this often. */
enum { SLICE_MS = 200 };

static void wait_slice(int64_t until_ms)
{
	int64_t end = clock_ms() + SLICE_MS;
	if (until_ms && until_ms < end)
		end = until_ms;
	struct timespec ts = { .tv_sec = end / 1000, .tv_nsec = end % 1000 * 1000000 };
	pthread_cond_timedwait(&db.committed, &db.lock, &ts);
}

int64_t db_wait(struct task *t, int64_t generation, int ms)
{
	int64_t until = ms < 0 ? 0 : clock_ms() + ms, now;
	for (;;) {
		if (task_check(t) < 0)
			return -1;
		pthread_mutex_lock(&db.lock);
		if (db.stored <= generation)
			wait_slice(until);
		now = db.stored;
		pthread_mutex_unlock(&db.lock);
		if (now > generation || (until && clock_ms() >= until))
			return now;
	}
}

int64_t db_pace(void)
{
	pthread_mutex_lock(&db.lock);
	int64_t ms = db.committed_ms - db.committed_before_ms;
	pthread_mutex_unlock(&db.lock);
	return ms;
}

struct deleted *db_deleted(struct task *t, int64_t since)
{
	size_t n = 0;
	struct deleted *all = talloc_zero_array(t, struct deleted, 1);
	const char *text = str(t, "%lld", (long long)since);
	pthread_mutex_lock(&db.lock);
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
	pthread_mutex_unlock(&db.lock);
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
