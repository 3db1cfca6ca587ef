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

int db_forget_deleted(struct task *t, int64_t keep)
{
	DB_SCOPE(t);
	sqlite3_stmt *s = sql_prepare("DELETE FROM deleted WHERE gen <= (SELECT gen FROM deleted "
				      "ORDER BY gen DESC LIMIT 1 OFFSET ?)",
				      NULL);
	sqlite3_bind_int64(s, 1, keep);
	if (sql_write(t, s) < 0)
		return -1;
	return db_commit(t);
}
