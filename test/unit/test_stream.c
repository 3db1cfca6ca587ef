// SPDX-License-Identifier: Apache-2.0
/* test_stream.c -- what comes in over a descriptor: looked at ahead, in HTTP's chunks, and where it ends. */
#include "base/stream.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

/* A descriptor that brings n bytes, and then a plain end. */
static int bring(struct task *t, const char *bytes, size_t n)
{
	int fd[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	CHECK(io_write(t, fd[1], bytes, n, 1000) == 0);
	close(fd[1]);
	return fd[0];
}

static bool fails_with(struct task *t, const char *text)
{
	bool as_wanted = t->code == IMPORT_ERROR && strstr(t->params[0], text);
	if (!as_wanted)
		fprintf(stderr, "wanted %s, got %s\n", text, task_error(t));
	task_forgive(t);
	return as_wanted;
}

static void test_peek(struct task *t)
{
	struct stream s;
	const unsigned char *seen;
	char got[16] = "";
	FD_SCOPE int fd = bring(t, "0123456789", 10);
	stream_begin(&s, fd, STREAM_OPEN);
	CHECK(stream_peek(t, &s, 4, &seen) == 4 && memcmp(seen, "0123", 4) == 0 && s.at == 0);
	CHECK(stream_read(t, &s, got, 2) == 0 && memcmp(got, "01", 2) == 0 && s.at == 2);
	CHECK(stream_peek(t, &s, 1, &seen) == 1 && *seen == '2');
	CHECK(stream_peek(t, &s, 5, &seen) == 5 && memcmp(seen, "23456", 5) == 0 && s.at == 2);
	CHECK(stream_skip(t, &s, 3) == 0 && s.at == 5);
	CHECK(stream_peek(t, &s, 100, &seen) == 5 && memcmp(seen, "56789", 5) == 0);
	CHECK(stream_some(t, &s, got, 16) == 5 && memcmp(got, "56789", 5) == 0 && s.at == 10);
	CHECK(stream_peek(t, &s, 7, &seen) == 0 && stream_some(t, &s, got, 16) == 0);
	stream_end(&s);
}

static void test_announced(struct task *t)
{
	struct stream s;
	const unsigned char *seen;
	char got[16];
	FD_SCOPE int all = bring(t, "0123456789", 10);
	stream_begin(&s, all, 6);
	CHECK(stream_peek(t, &s, 100, &seen) == 6);
	CHECK(stream_some(t, &s, got, 16) == 6 && stream_some(t, &s, got, 16) == 0 && s.at == 6);
	stream_end(&s);
	FD_SCOPE int less = bring(t, "012", 3);
	stream_begin(&s, less, 6);
	CHECK(stream_peek(t, &s, 2, &seen) == 2);
	CHECK(stream_peek(t, &s, 6, &seen) < 0 && fails_with(t, "ended after 3 of 6 bytes"));
	CHECK(stream_some(t, &s, got, 16) < 0 && fails_with(t, "ended after 3 of 6 bytes"));
	stream_end(&s);
}

/* What the chunks hold, as text on t; NULL: failed. */
static const char *decoded(struct task *t, const char *body, size_t n, size_t piece)
{
	struct stream s;
	struct coding coding = { 0 };
	const unsigned char *seen;
	char *text = talloc_zero_size(t, n + 1), *at = text;
	FD_SCOPE int fd = bring(t, body, n);
	ssize_t got;
	stream_begin_coded(&s, fd, &coding);
	if (stream_peek(t, &s, 3, &seen) < 0)
		return NULL;
	while ((got = stream_some(t, &s, at, piece)) == (ssize_t)piece)
		at += got;
	stream_end(&s);
	return got < 0 ? NULL : text;
}

#define CODED(body) decoded(t, body, sizeof(body) - 1, 4)
#define L "\r\n"

static void test_chunks(struct task *t)
{
	static const char *const whole[] = {
		"5" L "hello" L "6" L " world" L "0" L L,
		"b;name=\"a value\"" L "hello world" L "0" L L,
		"00000b" L "hello world" L "000;x" L L,
		"1" L "h" L "a" L "ello world" L "0" L "Digest: x" L "Other: y" L L,
		"B \t" L "hello world" L "0" L L "what another may send",
	};
	for (size_t i = 0; i < COUNT(whole); i++)
		for (size_t piece = 1; piece < 20; piece++) {
			const char *text = decoded(t, whole[i], strlen(whole[i]), piece);
			CHECK(text && streq(text, "hello world"));
		}
	CHECK(streq(CODED("0" L L), ""));
}

/* However much of it comes, short of all: it is not whole. */
static void test_chunks_that_end_early(struct task *t)
{
	static const char whole[] = "5" L "hello" L "6;x" L " world" L "0" L "Digest: x" L L;
	for (size_t n = 0; n < sizeof whole - 1; n++)
		CHECK(!decoded(t, whole, n, 4) && fails_with(t, "ended before their last chunk"));
	CHECK(decoded(t, whole, sizeof whole - 1, 4));
}

static void test_chunks_that_lie(struct task *t)
{
	static const struct {
		const char *body, *why;
	} lies[] = {
		{ "x" L, "\"x\" is no length" },
		{ L, "\"\" is no length" },
		{ "-1" L, "is no length" },
		{ "0x5" L "hello" L, "is no length" },
		{ " 5" L "hello" L, "is no length" },
		{ "5,5" L "hello" L, "is no length" },
		{ "1000000000000000" L, "is no length" },
		{ "5\nhello" L, "a control character" },
		{ "5\rhello" L, "ends in half" },
		{ "4" L "hello" L, "longer than it says" },
		{ "5" L "hello\n\n0" L L, "longer than it says" },
	};
	for (size_t i = 0; i < COUNT(lies); i++)
		CHECK(!decoded(t, lies[i].body, strlen(lies[i].body), 4) &&
		      fails_with(t, lies[i].why));
	char *line = talloc_zero_size(t, 2 * CODING_LINE);
	memset(line, '0', 2 * CODING_LINE - 1);
	CHECK(!decoded(t, line, strlen(line), 4) && fails_with(t, "has no end"));
	char *lines = talloc_strdup(t, "0" L);
	for (int i = 0; i < CODING_LINES; i++)
		lines = talloc_asprintf_append(lines, "a: b" L);
	CHECK(!decoded(t, lines, strlen(lines), 4) && fails_with(t, "too many lines"));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	test_peek(t);
	test_announced(t);
	test_chunks(t);
	test_chunks_that_end_early(t);
	test_chunks_that_lie(t);
	talloc_free(t);
	return 0;
}
