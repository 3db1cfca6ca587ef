// SPDX-License-Identifier: Apache-2.0
/* stream.h -- many bytes in one direction over a descriptor, each once: with a position, a limit, progress,
 * and an end to one in which nothing moves.
 *
 *     struct stream s;
 *     stream_begin(&s, fd, length);
 *     while (... stream_read(t, &s, buf, n) == 0)
 *     stream_end(&s);
 *
 * In between the descriptor does not block, so that a cancel is heard; afterwards it is as it was. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct task;

struct stream {
	int fd;
	uint64_t at;     /* bytes read or written so far */
	uint64_t length; /* bytes in all; STREAM_OPEN: until the other side ends */
	int flags;
	/* Writing: NULL, or where the last byte is put instead.  A reader that counts goes on with that byte, so who
	 * has more to end than the stream sends it himself when all is ended. */
	unsigned char *last;
};
#define STREAM_OPEN UINT64_MAX

void stream_begin(struct stream *, int fd, uint64_t length);
void stream_end(struct stream *);

/* Up to n bytes, fewer only at the end of the stream; what was announced must come (IMPORT_ERROR). */
ssize_t stream_some(struct task *, struct stream *, void *to, size_t n);
/* n bytes; IMPORT_ERROR when the stream ends before. */
int stream_read(struct task *, struct stream *, void *to, size_t n);
/* The same for bytes that nobody wants. */
int stream_skip(struct task *, struct stream *, uint64_t n);

int stream_write(struct task *, struct stream *, const void *from, size_t n);
int stream_zeros(struct task *, struct stream *, uint64_t n);

/* Are all n bytes zero? */
bool is_zero(const void *bytes, size_t n);
