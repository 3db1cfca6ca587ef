// SPDX-License-Identifier: Apache-2.0
/* statements.c -- statements that were made once are kept: to make one of a hundred columns takes longer than to find
 * its row. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "db/sql.h"

enum { BUCKETS = 256 };

struct kept {
	struct kept *next;
	sqlite3_stmt *stmt;
	uint32_t hash;
	bool busy;
};

static struct kept *buckets[BUCKETS];

/* FNV-1a. */
static uint32_t hash_of(const char *s)
{
	uint32_t h = 2166136261u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h;
}

static struct kept *find(const char *sql, uint32_t hash)
{
	struct kept *k = buckets[hash % BUCKETS];
	while (k && (k->hash != hash || !streq(sqlite3_sql(k->stmt), sql)))
		k = k->next;
	return k;
}

void sql_die(const char *what)
{
	log_line(NULL, "database unusable what=\"%s\" error=\"%s\"", what,
		 sqlite3_errmsg(db.sqlite));
	abort();
}

static sqlite3_stmt *make(const char *sql, unsigned flags)
{
	sqlite3_stmt *s;
	if (sqlite3_prepare_v3(db.sqlite, sql, -1, flags, &s, NULL) != SQLITE_OK)
		sql_die(sql);
	return s;
}

static struct kept *keep(const char *sql, uint32_t hash)
{
	struct kept *k = malloc(sizeof *k), **at = &buckets[hash % BUCKETS];
	if (!k)
		abort();
	*k = (struct kept){ *at, make(sql, SQLITE_PREPARE_PERSISTENT), hash, false };
	return *at = k;
}

/* One that is being stepped is not given to a second one. */
static sqlite3_stmt *take(const char *sql)
{
	uint32_t hash = hash_of(sql);
	struct kept *k = find(sql, hash);
	if (!k)
		k = keep(sql, hash);
	if (k->busy)
		return make(sql, 0);
	k->busy = true;
	return k->stmt;
}

sqlite3_stmt *sql_prepare(const char *sql, ...)
{
	db_lock();
	sqlite3_stmt *s = take(sql);
	va_list ap;
	va_start(ap, sql);
	const char *text;
	for (int i = 1; (text = va_arg(ap, const char *)); i++)
		sqlite3_bind_text(s, i, text, -1, SQLITE_TRANSIENT);
	va_end(ap);
	return s;
}

void sql_done(sqlite3_stmt *s)
{
	const char *sql = sqlite3_sql(s);
	struct kept *k = find(sql, hash_of(sql));
	bool kept = k && k->stmt == s;
	sqlite3_reset(s);
	sqlite3_clear_bindings(s);
	if (kept)
		k->busy = false;
	else
		sqlite3_finalize(s);
	db_unlock();
}

void sql_forget_all(void)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct kept *k; (k = buckets[i]);) {
			buckets[i] = k->next;
			sqlite3_finalize(k->stmt);
			free(k);
		}
}
