// SPDX-License-Identifier: Apache-2.0
#include "base/stream.h"

#include <fcntl.h>
#include <string.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum {
	PIECE = 256 << 10,
};

void stream_begin(struct stream *s, int fd, uint64_t length)
{
	*s = (struct stream){ .fd = fd, .length = length, .flags = fcntl(fd, F_GETFL) };
	if (s->flags >= 0)
		fcntl(fd, F_SETFL, s->flags | O_NONBLOCK);
}

void stream_end(struct stream *s)
{
	if (s->flags >= 0)
		fcntl(s->fd, F_SETFL, s->flags);
}

static void advance(struct task *t, struct stream *s, size_t n)
{
	s->at += n;
	if (s->length != STREAM_OPEN && s->length)
		task_progress(t, (double)s->at / (double)s->length);
}

static int ended(struct task *t, const struct stream *s, uint64_t wanted)
{
	return fail(t, IMPORT_ERROR,
		    str(t, "the data ended after %llu of %llu bytes", (unsigned long long)s->at,
			(unsigned long long)wanted));
}

ssize_t stream_some(struct task *t, struct stream *s, void *to, size_t n)
{
	size_t want = s->length - s->at < n ? (size_t)(s->length - s->at) : n;
	ssize_t got = io_read(t, s->fd, to, want, delay_ms(DELAY_STREAM_STALL));
	if (got < 0)
		return -1;
	advance(t, s, (size_t)got);
	if ((size_t)got < want && s->length != STREAM_OPEN)
		return ended(t, s, s->length);
	return got;
}

int stream_read(struct task *t, struct stream *s, void *to, size_t n)
{
	ssize_t got = stream_some(t, s, to, n);
	if (got < 0)
		return -1;
	return (size_t)got == n ? 0 : ended(t, s, s->at - (size_t)got + n);
}

int stream_skip(struct task *t, struct stream *s, uint64_t n)
{
	char *piece = talloc_array(t, char, PIECE);
	int result = 0;
	for (uint64_t part; n && result == 0; n -= part) {
		part = n < PIECE ? n : PIECE;
		result = stream_read(t, s, piece, (size_t)part);
	}
	talloc_free(piece);
	return result;
}

int stream_write(struct task *t, struct stream *s, const void *from, size_t n)
{
	size_t kept = s->last && n && s->at + n == s->length;
	if (io_write(t, s->fd, from, n - kept, delay_ms(DELAY_STREAM_STALL)) < 0)
		return -1;
	if (kept)
		*s->last = ((const unsigned char *)from)[n - 1];
	advance(t, s, n);
	return 0;
}

int stream_zeros(struct task *t, struct stream *s, uint64_t n)
{
	static const char zeros[PIECE];
	for (uint64_t part; n; n -= part) {
		part = n < PIECE ? n : PIECE;
		if (stream_write(t, s, zeros, (size_t)part) < 0)
			return -1;
	}
	return 0;
}

bool is_zero(const void *bytes, size_t n)
{
	const char *b = bytes;
	return n == 0 || (b[0] == 0 && memcmp(b, b + 1, n - 1) == 0);
}
