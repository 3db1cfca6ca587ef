// SPDX-License-Identifier: Apache-2.0
/* journal.h -- what must be undone when an operation does not come to its end.
 *
 *      operation begins
 *        row OPERATION_END vm ...          written, durable
 *        the VM is marked busy
 *        row VOL_DELETE sr volume          written, durable
 *        the volume is made
 *        ...
 *        one transaction: the result is written, the operation's rows are dropped
 *
 * A row is written *before* its deed, so undoing one may find nothing done.  Failure, cancel and
 * the start after a crash replay the same rows, newest first (api/undo).  Rows are kept under the operation's
 * name, task->op.  A verb and its arguments are text, so that a row outlives the version that wrote it. */
#pragma once

#include "base/list.h"

struct task;

struct journal_row {
	const char *nr;
	const char *op;
	const char *verb;
	struct list args;
};

/* Adds a row for task->op; durable at the return, or with the transaction that it is in. */
int journal_add(struct task *, const char *verb, ...) __attribute__((sentinel));
/* All rows of task->op go; in the transaction that writes the result. */
int journal_drop(struct task *);
/* One row goes: it has been undone. */
int journal_remove(struct task *, const char *nr);
/* The rows of one operation, or of all (NULL), newest first; ended by one without a nr.  On t. */
struct journal_row *journal_rows(struct task *, const char *op);
/* Does any row of the verb have this argument (the n-th)? */
bool journal_mentions(struct task *, const char *verb, size_t n, const char *arg);
