// SPDX-License-Identifier: Apache-2.0
/* coding.h -- reads a body in HTTP's chunks (Transfer-Encoding: chunked).
 *
 * A sender uses chunks when it does not know the length of what it sends.  The last chunk tells the
 * reader that all bytes came: a sender that dies, or a network that fails, never sends it.
 *
 *     5\r\n       the number of bytes in the chunk, in hex digits; words behind a ; are ignored
 *     hello\r\n   the bytes
 *     0\r\n       the last chunk
 *     \r\n        an empty line; lines between the last chunk and this one are ignored
 *
 * Whatever could be read in two ways is refused, as in a request's head (wire/http_head.c). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct task;

enum {
	CODING_LINE = 1024, /* bytes of a line at most */
	CODING_LINES = 100, /* lines behind the last chunk at most */
};

/* How far the reader is.  Zeros mean the beginning. */
struct coding {
	uint64_t left; /* bytes of the present chunk that are still to come */
	bool in_chunk; /* some of its bytes, or the line end behind them, are still to come */
	bool over;     /* the last chunk and the empty line behind it were read */
};

/* Reads n bytes of the body; fewer only when the body ends.  Takes no byte from the descriptor that
 * follows the body.  IMPORT_ERROR: the descriptor ended before the body did, or the chunks are broken. */
ssize_t coding_read(struct task *, int fd, struct coding *, void *to, size_t n);
