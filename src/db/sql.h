// SPDX-License-Identifier: Apache-2.0
/* sql.h -- what the files of this folder share: the connection and statements on it. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct task;

struct database {
	sqlite3 *sqlite;
	int depth;      /* open transactions of the thread that has the lock, whichever its tasks */
	bool further;   /* a further task of that thread has written something within */
	char lost[200]; /* why the outermost one could not be begun, "" */
	struct waiter *waiters; /* for generation to grow */
	unsigned deletions;     /* since those of long ago were forgotten, about */
	int64_t generation;     /* of the last write */
	int64_t stored;         /* the same, as the disk has it */
	int64_t committed_ms,
		committed_before_ms; /* when, on clock_ms(): the last one, and the one before */
};
extern struct database db;

/* The database's lock (lock.c).  Whoever has it may take it again; see ARCHITECTURE.md for the
 * order. */
void db_lock(void);
void db_unlock(void);

/* The generation has grown.  Lock held. */
void wake_waiters(void);

/* A statement with its text parameters (NULL ended), ready to step; ends the process when SQLite does
 * not know the SQL.  From here to sql_done() the lock is held. */
sqlite3_stmt *sql_prepare(const char *sql, ...) __attribute__((sentinel));
void sql_done(sqlite3_stmt *);
/* SQLITE_ROW or SQLITE_DONE; ends the process on a read error.  For writes use sql_write(). */
int sql_step(sqlite3_stmt *);
/* Runs a write to its end and is done with it; fails when the disk is full or broken. */
int sql_write(struct task *, sqlite3_stmt *);
const char *sql_text(sqlite3_stmt *, int column);
void sql_die(const char *what) __attribute__((noreturn));
/* Before the connection is closed. */
void sql_forget_all(void);
