// SPDX-License-Identifier: Apache-2.0
#include "db/db.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/events.h"
#include "db/sql.h"

struct database db;

enum {
	LOG_KEPT = 15 << 20, /* one block of the log's index counts as much */
	CLASSES_MOST = 64,
};

/* ---- statements ---- */

int sql_step(sqlite3_stmt *s)
{
	int rc = sqlite3_step(s);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		sql_die(sqlite3_sql(s));
	return rc;
}

static int failed(struct task *t)
{
	int rc = sqlite3_errcode(db.sqlite);
	const char *text = sqlite3_errmsg(db.sqlite);
	if (rc == SQLITE_FULL)
		return fail(t, SR_BACKEND_FAILURE_44, "",
			    "There is insufficient space for the server's own database", "");
	return fail(t, INTERNAL_ERROR, str(t, "database: %s", text));
}

/* The transaction could not be begun, or SQLite has rolled all of it back, as it does when there is no room.  What is
 * written now would be written at once and by itself. */
static bool is_lost(void)
{
	return db.depth > 0 && sqlite3_get_autocommit(db.sqlite);
}

static int lost(struct task *t)
{
	return fail(t, INTERNAL_ERROR,
		    str(t, "database: %s",
			*db.lost ? db.lost : "the transaction was given up at an earlier error"));
}

static int write_step(struct task *t, sqlite3_stmt *s)
{
	int rc = sqlite3_step(s);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : failed(t);
}

int sql_write(struct task *t, sqlite3_stmt *s)
{
	int result = is_lost() ? lost(t) : write_step(t, s);
	sql_done(s);
	return result;
}

const char *sql_text(sqlite3_stmt *s, int column)
{
	const char *text = (const char *)sqlite3_column_text(s, column);
	return text ? text : "";
}

static int execute(struct task *t, const char *sql)
{
	if (sqlite3_exec(db.sqlite, sql, NULL, NULL, NULL) != SQLITE_OK)
		return failed(t);
	return 0;
}

/* ---- tables made from the model ---- */

static const char *column_type(const struct field *f)
{
	return f->kind == INT ? "INTEGER" : f->kind == FLOAT ? "REAL" : "TEXT";
}

/* Found by often: identity, names, places, and whatever a link goes by. */
static bool is_indexed(const struct class *c, const struct field *f)
{
	static const char *const names[] = { "uuid", "name_label", "location", "suspend_VDI",
					     "auth_user_name" };
	for (size_t i = 0; i < COUNT(names); i++)
		if (streq(f->name, names[i]))
			return true;
	for (size_t i = 0; classes[i]; i++)
		for (const struct field *l = classes[i]->fields; l->name; l++)
			if (l->access == LINKED && streq(l->of, c->name) && streq(l->via, f->name))
				return true;
	return f->access == HIDDEN;
}

static bool has_column(struct task *t, const char *table, const char *name)
{
	sqlite3_stmt *s =
		sql_prepare(str(t, "SELECT 1 FROM pragma_table_info('%s') WHERE name = ?", table),
			    name, NULL);
	bool found = sql_step(s) == SQLITE_ROW;
	sql_done(s);
	return found;
}

/* A column that an older version did not have gets the default in all rows. */
static int make_column(struct task *t, const char *table, const char *name, const char *type,
		       const char *value)
{
	if (has_column(t, table, name))
		return 0;
	char *def = sqlite3_mprintf("%Q", value);
	const char *sql = str(t, "ALTER TABLE \"%s\" ADD COLUMN \"%s\" %s NOT NULL DEFAULT %s",
			      table, name, type, def);
	sqlite3_free(def);
	return execute(t, sql);
}

static int make_field(struct task *t, const struct class *c, const struct field *f)
{
	if (make_column(t, c->name, f->name, column_type(f), f->def) < 0)
		return -1;
	if (!is_indexed(c, f))
		return 0;
	return execute(t, str(t, "CREATE %s INDEX IF NOT EXISTS \"%s_%s\" ON \"%s\" (\"%s\")",
			      streq(f->name, "uuid") ? "UNIQUE" : "", c->name, f->name, c->name,
			      f->name));
}

static int make_table(struct task *t, const struct class *c)
{
	if (execute(t, str(t,
			   "CREATE TABLE IF NOT EXISTS \"%s\" (nr INTEGER PRIMARY KEY "
			   "AUTOINCREMENT, ref TEXT NOT NULL UNIQUE, gen INTEGER NOT NULL)",
			   c->name)) < 0 ||
	    make_column(t, c->name, "born", "INTEGER", "0") < 0 ||
	    execute(t, str(t, "CREATE INDEX IF NOT EXISTS \"%s_gen\" ON \"%s\" (gen)", c->name,
			   c->name)) < 0)
		return -1;
	for (const struct field *f = c->fields; f->name; f++)
		if (field_is_stored(f) && make_field(t, c, f) < 0)
			return -1;
	return 0;
}

/* How many rows each has is asked for by every client that waits for events. */
static int count_rows(struct task *t, const struct class *c)
{
	return execute(t, str(t, "INSERT OR REPLACE INTO counts SELECT '%s', count(*) FROM \"%s\"",
			      c->name, c->name));
}

static int make_tables(struct task *t)
{
	static const char *const own[] = {
		"CREATE TABLE IF NOT EXISTS generation (value INTEGER NOT NULL)",
		"INSERT INTO generation SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM generation)",
		"CREATE TABLE IF NOT EXISTS deleted (gen INTEGER PRIMARY KEY, class TEXT NOT NULL, "
		"ref TEXT NOT NULL)",
		"CREATE TABLE IF NOT EXISTS forgotten (gen INTEGER NOT NULL)",
		"INSERT INTO forgotten SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM forgotten)",
		"CREATE TABLE IF NOT EXISTS counts (class TEXT PRIMARY KEY, n INTEGER NOT NULL)",
		"CREATE TABLE IF NOT EXISTS journal (nr INTEGER PRIMARY KEY AUTOINCREMENT, "
		"op TEXT NOT NULL, verb TEXT NOT NULL, args TEXT NOT NULL)",
	};
	for (size_t i = 0; i < COUNT(own); i++)
		if (execute(t, own[i]) < 0)
			return -1;
	if (make_column(t, "deleted", "born", "INTEGER", "0") < 0)
		return -1;
	for (size_t i = 0; classes[i]; i++)
		if (make_table(t, classes[i]) < 0 || count_rows(t, classes[i]) < 0)
			return -1;
	return 0;
}

/* Only WAL with FULL keeps every acknowledged commit through a power cut: what SQLite really
 * uses is asked, not assumed. */
static int set_durable(struct task *t)
{
	if (execute(t, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL") < 0)
		return -1;
	if (!sync_wanted(SYNC_DATABASE))
		return execute(t, "PRAGMA synchronous=NORMAL");
	sqlite3_stmt *s =
		sql_prepare("SELECT journal_mode || synchronous FROM pragma_journal_mode, "
			    "pragma_synchronous",
			    NULL);
	bool good = sql_step(s) == SQLITE_ROW && streq(sql_text(s, 0), "wal2");
	sql_done(s);
	return good ? 0 : fail(t, INTERNAL_ERROR, "the database cannot be made durable here");
}

static const char *log_path(void)
{
	return sqlite3_filename_wal(sqlite3_db_filename(db.sqlite, "main"));
}

/* Who was killed as it committed may have written a transaction, and not waited for it.  It is read
 * as if it were durable, and a guest is let go on, or a file deleted, as it says. */
static int await_found(struct task *t)
{
	const char *log = log_path();
	return file_exists(log) ? file_datasync(t, log, SYNC_DATABASE_FOUND) : 0;
}

/* Disks may fill the file system that the database is on too; then room is made by deleting some, which
 * has to be written down first.  So blocks are kept behind the end of the log, which SQLite does not see; it
 * cuts the log never short, and goes on in it when the database itself cannot grow.  Where that cannot
 * be, a delete may fail for want of room.  (The database gets none: SQLite cuts that.  Nor may we open
 * it: to close a file lets go of all locks that SQLite has on it.  It has none on the log.) */
static void keep_room(void)
{
	const char *log = log_path();
	FD_SCOPE int fd = open(log, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, LOG_KEPT) < 0)
		log_line(NULL, "no room kept for the database file=%s error=\"%s\"", log,
			 strerror(errno));
}

static void read_generation(void)
{
	sqlite3_stmt *s = sql_prepare("SELECT value FROM generation", NULL);
	sql_step(s);
	db.generation = db.stored = sqlite3_column_int64(s, 0);
	sql_done(s);
}

static int connect_to(struct task *t, const char *path, int how)
{
	if (sqlite3_open_v2(path, &db.sqlite, SQLITE_OPEN_FULLMUTEX | how, NULL) != SQLITE_OK)
		return failed(t);
	sqlite3_busy_timeout(db.sqlite, delay_ms(DELAY_DB_BUSY));
	return await_found(t);
}

/* SQLite itself may write: it has to read the log of the dead. */
int db_open_to_read(struct task *t, const char *path)
{
	if (connect_to(t, path, SQLITE_OPEN_READWRITE) < 0)
		return -1;
	return execute(t, "PRAGMA query_only=1");
}

int db_open(struct task *t, const char *path)
{
	if (connect_to(t, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) < 0 ||
	    set_durable(t) < 0)
		return -1;
	DB_SCOPE(t);
	if (make_tables(t) < 0)
		return -1;
	read_generation();
	if (db_forget_deleted(t, DELETED_LIMIT) < 0 || db_commit(t) < 0)
		return -1;
	keep_room();
	return 0;
}

/* The log stays, empty, for the room that it has: a daemon could not start on a full file system
 * otherwise. */
void db_close(void)
{
	sqlite3_db_config(db.sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_wal_checkpoint_v2(db.sqlite, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	keep_room();
	sql_forget_all();
	sqlite3_close(db.sqlite);
	db.sqlite = NULL;
}

/* ---- transactions ---- */

/* Nothing is written then, and the first who tries hears why. */
static void begin_outermost(void)
{
	*db.lost = 0;
	db.further = false;
	if (sqlite3_exec(db.sqlite, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK)
		return;
	snprintf(db.lost, sizeof db.lost, "no transaction can be begun: %s",
		 sqlite3_errmsg(db.sqlite));
	log_line(NULL, "transaction not begun error=\"%s\"", sqlite3_errmsg(db.sqlite));
}

/* The connection counts, not the task: what a further task of the same thread does, such as to show progress, is an
 * inner transaction. */
void db_begin(struct task *t)
{
	db_lock();
	t->depth++;
	if (db.depth++ == 0)
		begin_outermost();
	else if (!is_lost() &&
		 sqlite3_exec(db.sqlite, "SAVEPOINT inner", NULL, NULL, NULL) != SQLITE_OK)
		sql_die("SAVEPOINT");
}

static int write_generation(struct task *t)
{
	if (db.generation == db.stored)
		return 0;
	sqlite3_stmt *s = sql_prepare("UPDATE generation SET value = ?", NULL);
	sqlite3_bind_int64(s, 1, db.generation);
	return sql_write(t, s);
}

static void note_commit(void)
{
	if (db.stored == db.generation)
		return;
	db.stored = db.generation;
	db.committed_before_ms = db.committed_ms;
	db.committed_ms = clock_ms();
	wake_waiters();
}

static int commit_outermost(struct task *t)
{
	if (write_generation(t) < 0 || execute(t, "COMMIT") < 0)
		return -1;
	note_commit();
	return 0;
}

int db_commit(struct task *t)
{
	assert(t->depth > 0);
	int result = is_lost()       ? lost(t)
		     : db.depth == 1 ? commit_outermost(t)
				     : execute(t, "RELEASE inner");
	if (result < 0) {
		db_rollback(t);
		return -1;
	}
	db.further |= t->depth == 1 && db.depth > 1;
	t->depth--;
	db.depth--;
	db_unlock();
	return 0;
}

void db_rollback(struct task *t)
{
	assert(t->depth > 0);
	bool is_open = !is_lost();
	t->depth--;
	if (--db.depth == 0) {
		if (is_open)
			sqlite3_exec(db.sqlite, "ROLLBACK", NULL, NULL, NULL);
		db.generation = db.stored;
	} else if (is_open) {
		sqlite3_exec(db.sqlite, "ROLLBACK TO inner; RELEASE inner", NULL, NULL, NULL);
	}
	db_unlock();
}

struct db_scope db_scope_begin(struct task *t)
{
	struct db_scope s = { .task = t, .depth = t->depth };
	db_begin(t);
	s.changes = sqlite3_total_changes(db.sqlite);
	return s;
}

void db_scope_end(struct db_scope *s)
{
	struct task *t = s->task;
	if (t->depth <= s->depth)
		return;
	/* What was written is given up only for a reason; what a further task wrote was told to be kept. */
	bool given_up = t->code != NO_ERROR || sqlite3_total_changes(db.sqlite) == s->changes;
	assert(given_up || db.further);
	if (given_up)
		db_rollback(t);
	else
		db_commit(t);
}

/* ---- reading ---- */

static void read_row(struct task *t, sqlite3_stmt *s, struct row *r)
{
	int column = 0;
	r->ref = talloc_strdup(r, sql_text(s, column++));
	r->gen = sqlite3_column_int64(s, column++);
	r->born = sqlite3_column_int64(s, column++);
	for (const struct field *f = r->class->fields; f->name; f++)
		if (field_is_stored(f) && field_parse(t, r, f, sql_text(s, column++)) < 0)
			sql_die(f->name);
}

static char *all_columns(const struct class *c)
{
	char *names = talloc_strdup(NULL, "ref, gen, born");
	for (const struct field *f = c->fields; f->name; f++)
		if (field_is_stored(f))
			names = talloc_asprintf_append(names, ", \"%s\"", f->name);
	return names;
}

/* Made once; lock held. */
static const char *columns_of(const struct class *c)
{
	static struct {
		const struct class *class;
		const char *names;
	} made[CLASSES_MOST];
	size_t i = 0;
	while (made[i].class && made[i].class != c)
		i++;
	assert(i + 1 < COUNT(made));
	if (!made[i].class) {
		made[i].names = all_columns(c);
		made[i].class = c;
	}
	return made[i].names;
}

static const char *select_sql(const void *ctx, const struct class *c, const char *columns,
			      const char *where)
{
	return str(ctx, "SELECT %s FROM \"%s\" %s", columns, c->name, where);
}

static struct row **select_rows(struct task *t, const struct class *c, const char *where,
				const char *value)
{
	struct row **rows = talloc_zero_array(t, struct row *, 1);
	size_t n = 0;
	db_lock();
	sqlite3_stmt *s = sql_prepare(select_sql(rows, c, columns_of(c), where), value, NULL);
	while (sql_step(s) == SQLITE_ROW) {
		rows = talloc_realloc(t, rows, struct row *, n + 2);
		rows[n] = talloc_zero_size(rows, c->size);
		rows[n]->class = c;
		read_row(t, s, rows[n++]);
		rows[n] = NULL;
	}
	sql_done(s);
	db_unlock();
	return rows;
}

static const char *where_field(struct task *t, const char *field)
{
	return field ? str(t, "WHERE \"%s\" = ? ORDER BY nr", field) : "ORDER BY nr";
}

struct row **db_find(struct task *t, const struct class *c, const char *field, const char *value)
{
	return select_rows(t, c, where_field(t, field), field ? value : NULL);
}

static struct list select_refs(struct task *t, const struct class *c, const char *where,
			       const char *value)
{
	struct list refs = { 0 };
	sqlite3_stmt *s = sql_prepare(select_sql(t, c, "ref", where), value, NULL);
	while (sql_step(s) == SQLITE_ROW)
		list_add(t, &refs, sql_text(s, 0));
	sql_done(s);
	return refs;
}

struct list db_refs(struct task *t, const struct class *c, const char *field, const char *value)
{
	return select_refs(t, c, where_field(t, field), field ? value : NULL);
}

struct list db_refs_below(struct task *t, const struct class *c, const char *field,
			  const char *value)
{
	return select_refs(t, c, str(t, "WHERE \"%s\" < ? ORDER BY nr", field), value);
}

struct row *db_seek_row(struct task *t, const struct class *c, const char *ref)
{
	return ref_is_null(ref) ? NULL : select_rows(t, c, "WHERE ref = ?", ref)[0];
}

struct row *db_get_row(struct task *t, const struct class *c, const char *ref)
{
	struct row *r = db_seek_row(t, c, ref);
	return r ? r : fail_ptr(t, HANDLE_INVALID, c->name, ref ? ref : "");
}

struct row *db_by_uuid_row(struct task *t, const struct class *c, const char *uuid)
{
	struct row *r = select_rows(t, c, "WHERE uuid = ?", uuid)[0];
	return r ? r : fail_ptr(t, UUID_INVALID, c->name, uuid);
}

int64_t db_count(const struct class *c)
{
	sqlite3_stmt *s = sql_prepare("SELECT n FROM counts WHERE class = ?", c->name, NULL);
	sql_step(s);
	int64_t n = sqlite3_column_int64(s, 0);
	sql_done(s);
	return n;
}

/* The number, or in *ret_text the text, that a SELECT has for the rows whose stored fields have the
 * values: field, value, ..., NULL. */
static int64_t ask(struct task *t, const struct class *c, const char *what, const char *behind,
		   const char **ret_text, va_list ap)
{
	char *sql = str(t, "SELECT %s FROM \"%s\" WHERE true", what, c->name);
	const char *values[4] = { 0 }, *field;
	size_t n = 0;
	while ((field = va_arg(ap, const char *))) {
		assert(n < COUNT(values));
		values[n++] = va_arg(ap, const char *);
		sql = talloc_asprintf_append(sql, " AND \"%s\" = ?", field);
	}
	sql = talloc_asprintf_append(sql, "%s", behind);
	sqlite3_stmt *s = sql_prepare(sql, values[0], values[1], values[2], values[3], NULL);
	bool found = sql_step(s) == SQLITE_ROW;
	int64_t number = sqlite3_column_int64(s, 0);
	if (ret_text)
		*ret_text = found ? talloc_strdup(t, sql_text(s, 0)) : NULL;
	sql_done(s);
	return number;
}

int64_t db_sum(struct task *t, const struct class *c, const char *number, ...)
{
	va_list ap;
	va_start(ap, number);
	int64_t sum = ask(t, c, str(t, "coalesce(sum(\"%s\"), 0)", number), "", NULL, ap);
	va_end(ap);
	return sum;
}

int64_t db_number(struct task *t, const struct class *c, ...)
{
	va_list ap;
	va_start(ap, c);
	int64_t n = ask(t, c, "count(*)", "", NULL, ap);
	va_end(ap);
	return n;
}

const char *db_first(struct task *t, const struct class *c, const char *by, ...)
{
	const char *ref;
	va_list ap;
	va_start(ap, by);
	ask(t, c, "ref", str(t, " ORDER BY \"%s\", nr LIMIT 1", by ? by : "nr"), &ref, ap);
	va_end(ap);
	return ref;
}

/* ---- writing ---- */

/* Columns in the order of insert_sql() and update_sql(): the stored fields, gen, ref, born. */
static int write_row(struct task *t, struct row *r, const char *sql)
{
	assert(t->depth > 0);
	int column = 1;
	sqlite3_stmt *s = sql_prepare(sql, NULL);
	for (const struct field *f = r->class->fields; f->name; f++)
		if (field_is_stored(f))
			sqlite3_bind_text(s, column++, field_text(t, r, f), -1, SQLITE_TRANSIENT);
	int64_t now = ++db.generation;
	sqlite3_bind_int64(s, column++, now);
	sqlite3_bind_text(s, column++, r->ref, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(s, column, r->gen ? r->born : now);
	if (sql_write(t, s) < 0)
		return -1;
	r->born = r->gen ? r->born : now;
	r->gen = now;
	return 0;
}

static const char *insert_sql(const void *ctx, const struct class *c)
{
	char *names = talloc_strdup(ctx, ""), *marks = talloc_strdup(ctx, "");
	for (const struct field *f = c->fields; f->name; f++)
		if (field_is_stored(f)) {
			names = talloc_asprintf_append(names, "\"%s\", ", f->name);
			marks = talloc_asprintf_append(marks, "?, ");
		}
	return str(ctx, "INSERT INTO \"%s\" (%sgen, ref, born) VALUES (%s?, ?, ?)", c->name, names,
		   marks);
}

static const char *update_sql(const void *ctx, const struct class *c)
{
	char *sets = talloc_strdup(ctx, "");
	for (const struct field *f = c->fields; f->name; f++)
		if (field_is_stored(f))
			sets = talloc_asprintf_append(sets, "\"%s\" = ?, ", f->name);
	return str(ctx, "UPDATE \"%s\" SET %sgen = ? WHERE ref = ? AND born = ?", c->name, sets);
}

static int count(struct task *t, const struct class *c, const char *more)
{
	return sql_write(t, sql_prepare("UPDATE counts SET n = n + ? WHERE class = ?", more,
					c->name, NULL));
}

int db_insert(struct task *t, struct row *r)
{
	if (write_row(t, r, insert_sql(t, r->class)) < 0)
		return -1;
	return count(t, r->class, "1");
}

/* Somebody wrote the row between the caller's reading and this transaction, in which he ought to have read it.  What he
 * made of it is not written over what the other one wrote; and the log has it, for it is a mistake in the program. */
static int overtaken(struct task *t, const struct row *r)
{
	log_line(t, "row written since it was read class=%s ref=%s", r->class->name, r->ref);
	return fail(t, OTHER_OPERATION_IN_PROGRESS, r->class->name, r->ref, "write", NULL_REF);
}

int db_put(struct task *t, struct row *r)
{
	const struct row *now = db_get_row(t, r->class, r->ref);
	if (!now)
		return -1;
	return now->gen == r->gen ? write_row(t, r, update_sql(t, r->class)) : overtaken(t, r);
}

/* Now and then those of long ago go, so that they are never many. */
static int forget_some(struct task *t)
{
	if (++db.deletions < DELETED_SLACK)
		return 0;
	db.deletions = 0;
	return db_forget_deleted(t, DELETED_LIMIT);
}

int db_delete(struct task *t, const struct row *r)
{
	assert(t->depth > 0);
	sqlite3_stmt *s =
		sql_prepare("INSERT INTO deleted (class, ref, gen, born) VALUES (?, ?, ?, ?)",
			    r->class->name, r->ref, NULL);
	sqlite3_bind_int64(s, 3, ++db.generation);
	sqlite3_bind_int64(s, 4, r->born);
	if (sql_write(t, s) < 0 || count(t, r->class, "-1") < 0 || forget_some(t) < 0)
		return -1;
	return sql_write(t, sql_prepare(str(t, "DELETE FROM \"%s\" WHERE ref = ?", r->class->name),
					r->ref, NULL));
}

int db_delete_all(struct task *t, const struct class *c, const char *field, const char *value)
{
	for (struct row **r = db_find(t, c, field, value); *r; r++)
		if (db_delete(t, *r) < 0)
			return -1;
	return 0;
}
