// SPDX-License-Identifier: Apache-2.0
/* say.h -- words for the user: the server's own, and the names of objects, which anybody may have chosen. */
#pragma once

struct task;

/* Writes "text\n" to standard output (1) or error (2), as said() has it. */
int say(struct task *, int fd, const char *text);
/* The text as the descriptor may be given it, on ctx.  A terminal gets no control characters, for they could make it
 * lie to its user, or type; a file or a pipe gets the very bytes, since scripts compare them. */
const char *said(const void *ctx, int fd, const char *text);
/* The recorded error as a sentence: here, unlike at the server, codes mean nothing to anybody. */
const char *what_failed(const struct task *);
