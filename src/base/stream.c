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

void stream_begin_coded(struct stream *s, int fd, struct coding *coding)
{
	stream_begin(s, fd, STREAM_OPEN);
	s->coding = coding;
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

static int ended(struct task *t, uint64_t at, uint64_t wanted)
{
	return fail(t, IMPORT_ERROR,
		    str(t, "the data ended after %llu of %llu bytes", (unsigned long long)at,
			(unsigned long long)wanted));
}

/* Reads n bytes from the descriptor; fewer when the stream ends. */
static ssize_t take(struct task *t, struct stream *s, void *to, size_t n)
{
	if (s->coding)
		return coding_read(t, s->fd, s->coding, to, n);
	return io_read(t, s->fd, to, n, delay_ms(DELAY_STREAM_STALL));
}

static size_t at_most(const struct stream *s, size_t n)
{
	return s->length - s->at < n ? (size_t)(s->length - s->at) : n;
}

static int read_ahead(struct task *t, struct stream *s, size_t want)
{
	size_t have = s->ahead_n - s->ahead_at;
	if (want <= have)
		return 0;
	if (have)
		memmove(s->ahead, s->ahead + s->ahead_at, have);
	s->ahead = talloc_realloc(t, s->ahead, unsigned char, want);
	ssize_t got = take(t, s, s->ahead + have, want - have);
	s->ahead_at = 0;
	s->ahead_n = have + (got < 0 ? 0 : (size_t)got);
	return got < 0 ? -1 : 0;
}

ssize_t stream_peek(struct task *t, struct stream *s, size_t n, const unsigned char **ret)
{
	size_t want = at_most(s, n);
	if (read_ahead(t, s, want) < 0)
		return -1;
	size_t have = s->ahead_n - s->ahead_at;
	if (have < want && s->length != STREAM_OPEN)
		return ended(t, s->at + have, s->length);
	*ret = have ? s->ahead + s->ahead_at : NULL;
	return (ssize_t)(have < want ? have : want);
}

/* Takes up to n of the bytes that were read ahead. */
static size_t take_ahead(struct stream *s, void *to, size_t n)
{
	size_t have = s->ahead_n - s->ahead_at, part = have < n ? have : n;
	if (!part)
		return 0;
	memcpy(to, s->ahead + s->ahead_at, part);
	s->ahead_at += part;
	if (s->ahead_at == s->ahead_n) {
		talloc_free(s->ahead);
		s->ahead = NULL;
		s->ahead_at = s->ahead_n = 0;
	}
	return part;
}

ssize_t stream_some(struct task *t, struct stream *s, void *to, size_t n)
{
	size_t want = at_most(s, n), part = take_ahead(s, to, want);
	ssize_t got = part < want ? take(t, s, (char *)to + part, want - part) : 0;
	if (got < 0)
		return -1;
	part += (size_t)got;
	advance(t, s, part);
	if (part < want && s->length != STREAM_OPEN)
		return ended(t, s->at, s->length);
	return (ssize_t)part;
}

int stream_read(struct task *t, struct stream *s, void *to, size_t n)
{
	ssize_t got = stream_some(t, s, to, n);
	if (got < 0)
		return -1;
	return (size_t)got == n ? 0 : ended(t, s->at, s->at - (size_t)got + n);
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
