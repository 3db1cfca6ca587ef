// SPDX-License-Identifier: Apache-2.0
/* db.h -- the objects' rows in SQLite: one table a class, one column a stored field.
 *
 * The database is the one truth: nothing above it keeps copies across calls.  A write happens in a
 * transaction in which its row was read.  db_put() refuses a row that has changed since:
 *
 *     DB_SCOPE(t);                                 rolled back at the end of the scope ...
 *     struct VM_row *vm = db_get(t, VM, ref);
 *     vm->power_state = vm_power_state_Running;
 *     if (!vm || db_put(t, &vm->row) < 0)
 *             return -1;
 *     return db_commit(t);                         ... unless it was committed
 *
 * A transaction holds the database's lock; under it only the short locks of the lists in api/ are
 * taken, and nothing in it may wait for anything.  Only this folder knows SQL.  A database that cannot be read ends the process:
 * guests go on, and what was acknowledged is on the disk. */
#pragma once

#include "model/model.h"

struct task;

/* Opens (and creates, and brings up to this version's columns) the database at path. */
int db_open(struct task *, const char *path);
/* The database of a daemon that has died: nothing is made in it, and nothing is written. */
int db_open_to_read(struct task *, const char *path);
void db_close(void);

/* Transactions nest; the outermost one of a thread writes, whichever of its tasks began it.  An inner one that is rolled
 * back has changed nothing, whatever becomes of the outer ones.  One that cannot be begun, since another program keeps
 * the database for too long, or the disk fails, reads, and fails when it writes. */
void db_begin(struct task *);
int db_commit(struct task *);
void db_rollback(struct task *);
struct db_scope {
	struct task *task;
	int depth;
	int changes; /* of rows, ever */
};
struct db_scope db_scope_begin(struct task *);
void db_scope_end(struct db_scope *);
#define DB_SCOPE(t)                                                                                \
	__attribute__((cleanup(db_scope_end), unused)) struct db_scope db_scope_ = db_scope_begin(t)

/* What this thread does from now on is for one of many whom we do not know (clients of the
 * network): it has the database's lock only when nobody else wants it. */
void db_give_way(bool);

/* The row, on t; HANDLE_INVALID [class, ref] when there is none.  (class##_row is the struct.) */
#define db_get(t, class, ref) ((struct class##_row *)db_get_row((t), &class_##class, (ref)))
struct row *db_get_row(struct task *, const struct class *, const char *ref);
/* The same without an error: NULL when there is none. */
#define db_seek(t, class, ref) ((struct class##_row *)db_seek_row((t), &class_##class, (ref)))
struct row *db_seek_row(struct task *, const struct class *, const char *ref);
/* The one row with the uuid; UUID_INVALID [class, uuid]. */
#define db_by_uuid(t, class, uuid)                                                                 \
	((struct class##_row *)db_by_uuid_row((t), &class_##class, (uuid)))
struct row *db_by_uuid_row(struct task *, const struct class *, const char *uuid);

/* The rows whose stored field has the value (as field_text() writes it), oldest first; all rows for a NULL field.
 * NULL ended, on t, never NULL.  Quick for uuid, name_label and the fields that links go by. */
struct row **db_find(struct task *, const struct class *, const char *field, const char *value);
#define DB_EACH(t, class, var, field, value)                                                       \
	for (struct class##_row **var##_at =                                                       \
		     (struct class##_row **)db_find((t), &class_##class, (field), (value)),        \
				*var;                                                              \
	     ((var) = *var##_at) != NULL; var##_at++)
#define DB_ALL(t, class, var) DB_EACH (t, class, var, NULL, NULL)

/* The refs of the same rows, which costs less than the rows. */
struct list db_refs(struct task *, const struct class *, const char *field, const char *value);

/* Those whose stored field sorts before the value, as text. */
struct list db_refs_below(struct task *, const struct class *, const char *field,
			  const char *value);

int64_t db_count(const struct class *);
/* The sum of a number over the rows whose stored fields have these values: field, value, ..., NULL. */
int64_t db_sum(struct task *, const struct class *, const char *number, ...)
	__attribute__((sentinel));

/* How many rows there are whose stored fields have these values: field, value, ..., NULL; and the
 * ref of the first of them in the order of the field `by` (NULL: of their making), on t; NULL:
 * there is none. */
int64_t db_number(struct task *, const struct class *, ...) __attribute__((sentinel));
const char *db_first(struct task *, const struct class *, const char *by, ...)
	__attribute__((sentinel));

/* Write the row; inside a transaction only. */
int db_insert(struct task *, struct row *);
/* OTHER_OPERATION_IN_PROGRESS [class, ref, "write", NULL]: somebody else wrote it since it was read. */
int db_put(struct task *, struct row *);
int db_delete(struct task *, const struct row *);
/* All rows whose stored field has the value. */
int db_delete_all(struct task *, const struct class *, const char *field, const char *value);
