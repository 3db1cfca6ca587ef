// SPDX-License-Identifier: Apache-2.0
/* thin.h -- the server's side of the thin CLI protocol: what a command can do on the terminal
 * and with the files of the user who typed it.  The bytes are drawn in base/frame.h.
 *
 *     struct thin *th = thin_open(t, fd);
 *     if (!th)
 *             return;
 *     thin_print(th, "hello");
 *     thin_exit(th, 0);
 *
 * Each function fails when the client is gone, and then leaves its error on the task given to
 * thin_open() and answers thin_gone() with true.  They work on a task that is cancelled or
 * already has an error (which stays the first), so that it can be told to the user. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"

struct task;
struct thin;

/* What the body of POST /cli holds: lines, one an argument, as they were typed ("vm-list",
 * "params=uuid", "--minimal").  The credentials among them are taken out; NULL when not given.
 * (username= and password= may stand on any line, the last one counts; session_id= on the first.) */
struct thin_request {
	struct list args;
	const char *username, *password;
	const char *session;
};
/* Fails with INTERNAL_ERROR on a NUL, text that is not UTF-8, or more than 1000 lines. */
int thin_parse_body(struct task *, const char *body, size_t n, struct thin_request *ret);

/* Greets the client and checks its greeting.  The struct is on t; fd stays the caller's. */
struct thin *thin_open(struct task *, int fd);
bool thin_gone(const struct thin *);

/* One piece of text; the client writes a newline behind it. */
int thin_print(struct thin *, const char *text);
int thin_error(struct thin *, const char *text); /* on standard error */
int thin_debug(struct thin *, const char *text); /* shown with --debug only */
/* The client prints "Error code: ..." and "Error parameters: ...".  params may be NULL, and ends with
 * NULL: a task's t->params fits. */
int thin_error_code(struct thin *, const char *code, const char *const *params);

/* A line from the user, without its newline, on the task. */
char *thin_prompt(struct thin *);
/* The bytes of a file of the client's, NUL behind them, on the task; fails when it is larger than limit or
 * the client does not give it (it gives only files named in its arguments or beneath its
 * working directory). */
char *thin_load(struct thin *, const char *filename, size_t limit, size_t *ret_n);

/* The client fetches path (of this server, "/export_raw_vdi?vdi=...&session_id=...") into a new file of
 * its own ("": its standard output), or sends a file to it, and these wait for the end. */
int thin_get(struct thin *, const char *filename, const char *path);
int thin_put(struct thin *, const char *filename, const char *path);
/* The client's terminal is connected to path (CONNECT) until the user leaves it. */
int thin_connect(struct thin *, const char *path);

/* The last word: the client ends with this status. */
int thin_exit(struct thin *, int code);

/* While a long call runs: cancels the task when the client goes away (Ctrl-C, a lost
 * connection).  One watch at a time; it must be ended before that task is freed. */
int thin_watch(struct thin *, struct task *watched);
void thin_unwatch(struct thin *);
