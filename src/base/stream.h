// SPDX-License-Identifier: Apache-2.0
/* stream.h -- many bytes in one direction over a descriptor, each once: with a position, a limit, progress,
 * and an end to one in which nothing moves.
 *
 *     struct stream s;
 *     stream_begin(&s, fd, length);
 *     while (... stream_read(t, &s, buf, n) == 0)
 *     stream_end(&s);
 *
 * In between the descriptor does not block, so that a cancel is heard; afterwards it is as it was.
 *
 * A reader learns in one of three ways where the stream ends:
 *
 *     a length           was announced before the first byte; fewer bytes are IMPORT_ERROR
 *     HTTP's last chunk  comes behind the last byte (coding.h); an end before it is IMPORT_ERROR
 *     a plain end        comes when the sender closes its end, and also when the sender dies
 *
 * So a plain end does not tell whether all bytes came.  The reader has to find that out in some other way. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/coding.h"

struct task;

struct stream {
	int fd;
	uint64_t at;     /* bytes read or written so far */
	uint64_t length; /* bytes in all; STREAM_OPEN: until the other side ends */
	int flags;
	/* Writing: NULL, or where the last byte is put instead.  A reader that counts goes on with that byte, so who
	 * has more to end than the stream sends it himself when all is ended. */
	unsigned char *last;
	struct coding *coding; /* reading: NULL, or how far the reader is in HTTP's chunks */
	/* Reading: the bytes that stream_peek() has read; those from ahead_at to ahead_n are still to be taken. */
	unsigned char *ahead;
	size_t ahead_at, ahead_n;
};
#define STREAM_OPEN UINT64_MAX

void stream_begin(struct stream *, int fd, uint64_t length);
/* Begins to read a stream that comes in HTTP's chunks.  coding is zeroed, and lives as long as the stream. */
void stream_begin_coded(struct stream *, int fd, struct coding *coding);
void stream_end(struct stream *);

/* Shows the next n bytes, or fewer when the stream ends before, without taking them.  *ret points to them
 * until the next call.  Returns how many they are, or -1: announced bytes did not come (IMPORT_ERROR). */
ssize_t stream_peek(struct task *, struct stream *, size_t n, const unsigned char **ret);
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
