// SPDX-License-Identifier: Apache-2.0
/* events.h -- what has changed: every write has a generation, and waiting for the next one
 * costs nothing. */
#pragma once

#include <stdint.h>

#include "base/limits.h"

struct class;
struct task;

/* So many deletions are remembered, and at most so many more. */
enum { DELETED_SLACK = DELETED_LIMIT / 10 };

/* Of the last committed write. */
int64_t db_generation(void);
/* Waits until the generation is newer than the one given, at most ms (-1: no limit, but cancel
 * is heeded); returns the present one, -1 when cancelled or past the task's deadline. */
int64_t db_wait(struct task *, int64_t generation, int ms);
/* Milliseconds between the last two commits: are changes coming in a burst? */
int64_t db_pace(void);
/* The rows written since that generation, in the order of writing; ended by one without a ref, on t. */
struct changed {
	const char *ref;
	int64_t gen, born; /* of the last write, and of the first */
};
struct changed *db_changed(struct task *, const struct class *, int64_t since);
/* What was there at that generation and is no more, oldest deletion first; ended by one without a
 * class, on t.  NULL, failed with EVENTS_LOST: older deletions than these were forgotten. */
struct deleted {
	const char *class, *ref;
	int64_t gen;
};
struct deleted *db_deleted(struct task *, int64_t since);
/* Forgets deletions older than the newest `keep`: readers behind them start afresh.  db_delete() does it, so that there
 * are never many more than that. */
int db_forget_deleted(struct task *, int64_t keep);
