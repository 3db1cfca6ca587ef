// SPDX-License-Identifier: Apache-2.0
/* http_client.h -- what the server asks xe to carry: a file to it, a file from it, the terminal.
 * Each goes over a connection of its own, while the first one waits; it is told every few
 * minutes that we are busy. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct task;
struct options;

struct carrier {
	struct task *task;
	const struct options *options;
	int thin_fd;         /* where FRAME_WAIT goes */
	long long next_wait; /* when, on clock_ms() */
};

/* GET path into a new file, or to standard output when file is "".  Blocks of zeroes become
 * holes.  A file that did not become whole is removed. */
int carry_get(struct carrier *, const char *file, const char *path);
/* PUT of the file, or of standard input when file is "" or "-".  A regular file is sent with its length,
 * other input in HTTP's chunks, so that the server knows in both cases when it has everything. */
int carry_put(struct carrier *, const char *file, const char *path);
/* CONNECT, then the terminal: raw, until Ctrl-] or the other end; or standard input and output as they
 * are, until either ends. */
int carry_terminal(struct carrier *, const char *path);

/* The status of an answer's head, and what else of it matters here; pure.  Returns 0 when it is none. */
struct answer {
	int status;
	long long length;     /* -1: not announced */
	const char *location; /* or NULL */
};
bool answer_parse(const void *ctx, const char *head, struct answer *ret);
