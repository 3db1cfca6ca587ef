// SPDX-License-Identifier: Apache-2.0
/* task.h -- the scope of an operation: its memory, its error, its cancel, its
 * deadline and its progress.  The first parameter of everything that can fail,
 * wait or allocate.
 *
 * A task is a talloc context: what is allocated on it lives as long as it does.
 * It belongs to one thread; only task_interrupt() may be called from another one.
 *
 *     if (!file)
 *             return fail(t, SR_BACKEND_FAILURE_44, "", "There is ...", "");
 *
 * Functions return 0 or -1 (or a pointer or NULL).  The error is said once,
 * where it is known; callers pass -1 up.  A failure that is handled is cleared in
 * the open with task_forgive(). */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>

#include "base/clock.h"

enum code {
	NO_ERROR,
#define ERROR(code, params, text) code,
#include "base/errors.def"
	CODE_MAX,
};

/* One row of errors.def: XenAPI's wire name, the names of its parameters separated
 * by spaces, and a sentence for the user. */
struct code_row {
	const char *name;
	const char *params;
	const char *text;
};
extern const struct code_row code_rows[CODE_MAX];

/* Where progress goes.  Given by the layer that owns the task's row. */
struct task_sink {
	void (*progress)(struct task_sink *, double fraction);
};

/* Given by who lets only so many be at work at a time, and counts them. */
struct task_turn {
	/* From now on the thread waits for others more than it works, just now for fd; and it works
	 * again, when it is its turn. */
	void (*rest)(struct task_turn *, int fd);
	void (*work)(struct task_turn *);
	/* The task is this user's.  -1, with an error: he has too many. */
	int (*vouch)(struct task_turn *, struct task *, const char *user);
	/* The client has said that no more comes from it, and so may be gone. */
	bool (*is_left)(struct task_turn *);
};

struct task {
	const char *name;       /* stands on each log line */
	const char *ref;        /* the task's row, "" when it has none */
	const char *session;    /* who asked, "" for the daemon itself */
	const char *peer;       /* from where, "" likewise */
	bool trusted;           /* from the local socket, by root or our own user */
	const char *adopts;     /* a row that a client has made for the next call, "" none */
	const char *op;         /* the journal's name for this operation, see db/journal.h */
	struct task_sink *sink; /* may be NULL */
	struct task_turn *turn; /* may be NULL */

	/* Of a call: what it holds others up with, freed when the call has ended; else the task itself. */
	void *scope;

	enum code code;      /* NO_ERROR while all is well */
	const char **params; /* of the error; NULL ended */
	const char *place;   /* file:line where it was said */

	struct task *whole; /* of which this is a part; NULL: of none */

	bool cancellable; /* task_wait() heeds cancel only while true */
	_Atomic bool cancelled;
	int cancel_fd;       /* eventfd: readable once cancelled */
	int64_t deadline_ms; /* on clock_ms(), 0: none */

	double lo, hi;    /* the part of the whole that is running now */
	double shown;     /* last fraction given to the sink, */
	int64_t shown_ms; /* and when, on clock_ms(): each costs a durable write */
	int undoing;      /* >0 while undo runs: no cancel, no deadline */
	int depth;        /* open database transactions */
};

struct task *task_new(const void *parent, const char *name);

/* For one of many pieces of t's work, whose memory is to go before t does: memory and error are its own, and it
 * heeds t's cancel and deadline, under t's names.  Of the same thread. */
struct task *task_part(struct task *t);

/* fail(t, CODE, "param", ...): records the error and returns -1.  A second error
 * while one is recorded is logged and dropped: the first one is the cause. */
#define fail(t, code, ...)                                                                         \
	task_fail((t), (code), __FILE__, __LINE__, ##__VA_ARGS__, (const char *)NULL)
#define fail_ptr(t, code, ...) (fail((t), (code), ##__VA_ARGS__), NULL)
int task_fail(struct task *, enum code, const char *file, int line, ...) __attribute__((sentinel));

/* The same with parameters in a NULL ended array. */
int task_fail_params(struct task *, enum code, const char *const *params);

/* Fails with INTERNAL_ERROR [what: strerror(err)], or SR_BACKEND_FAILURE_44 for ENOSPC. */
int task_fail_errno(struct task *, int err, const char *what);

/* The error is handled: forget it. */
void task_forgive(struct task *);

/* "CODE: param, param" on t, for logs. */
const char *task_error(struct task *t);

/* From any thread.  Wakes task_wait(). */
void task_interrupt(struct task *);

/* Fails with TASK_CANCELLED or when the deadline is over; else 0.  Call in long loops. */
int task_check(struct task *);

/* t's thread is about to wait for fd, or for something else (-1): whoever counts those at work is
 * told.  task_wait() says so by itself.  After it the thread is one of those that wait, of which
 * there are many: what will take a processor's time stands in line for it once more, with
 * task_work(), under no lock. */
void task_rest(struct task *, int fd);
void task_work(struct task *);
/* Who waits for nothing in particular need not go on when its client may be gone: he looks now and
 * then. */
bool task_is_left(struct task *);
/* It is known who asks.  -1: he asks for too much at a time. */
int task_vouch(struct task *, const char *user);

/* Waits until fd has one of the poll events, at most ms (-1: no limit).
 * Returns the events, 0 on time-out, -1 when cancelled or past the deadline.  fd may be -1. */
int task_wait(struct task *, int fd, short events, int ms);

/* What follows is the part lo..hi of the whole (0..1). */
void task_span(struct task *, double lo, double hi);
/* fraction (0..1) of the running part is done. */
void task_progress(struct task *, double fraction);
