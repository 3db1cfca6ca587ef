// SPDX-License-Identifier: Apache-2.0
#include "db/journal.h"

#include <assert.h>
#include <stdarg.h>

#include "base/crash.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"
#include "db/sql.h"

int journal_add(struct task *t, const char *verb, ...)
{
	struct list args = { 0 };
	const char *arg;
	va_list ap;
	va_start(ap, verb);
	while ((arg = va_arg(ap, const char *)))
		list_add(t, &args, arg);
	va_end(ap);
	assert(*t->op);
	{
		DB_SCOPE(t);
		if (sql_write(t,
			      sql_prepare("INSERT INTO journal (op, verb, args) VALUES (?, ?, ?)",
					  t->op, verb, list_to_json(t, &args), NULL)) < 0 ||
		    db_commit(t) < 0)
			return -1;
	}
	crash_point();
	return 0;
}

int journal_drop(struct task *t)
{
	crash_point();
	return sql_write(t, sql_prepare("DELETE FROM journal WHERE op = ?", t->op, NULL));
}

int journal_remove(struct task *t, const char *nr)
{
	crash_point();
	DB_SCOPE(t);
	if (sql_write(t, sql_prepare("DELETE FROM journal WHERE nr = ?", nr, NULL)) < 0)
		return -1;
	return db_commit(t);
}

struct journal_row *journal_rows(struct task *t, const char *op)
{
	size_t n = 0;
	struct journal_row *rows = talloc_zero_array(t, struct journal_row, 1);
	sqlite3_stmt *s =
		sql_prepare(op ? "SELECT nr, op, verb, args FROM journal WHERE op = ? "
				 "ORDER BY nr DESC"
			       : "SELECT nr, op, verb, args FROM journal ORDER BY nr DESC",
			    op, NULL);
	while (sql_step(s) == SQLITE_ROW) {
		rows = talloc_realloc(t, rows, struct journal_row, n + 2);
		rows[n].nr = talloc_strdup(t, sql_text(s, 0));
		rows[n].op = talloc_strdup(t, sql_text(s, 1));
		rows[n].verb = talloc_strdup(t, sql_text(s, 2));
		list_from_json(t, sql_text(s, 3), &rows[n].args);
		rows[++n] = (struct journal_row){ 0 };
	}
	sql_done(s);
	return rows;
}

bool journal_mentions(struct task *t, const char *verb, size_t n, const char *arg)
{
	for (struct journal_row *r = journal_rows(t, NULL); r->nr; r++)
		if (streq(r->verb, verb) && n < r->args.n && streq(r->args.v[n], arg))
			return true;
	return false;
}
