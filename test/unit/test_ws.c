// SPDX-License-Identifier: Apache-2.0
/* test_ws.c -- frames in and out, whole and byte by byte; and what ends a connection. */
#include "wire/ws.h"

#include "base/text.h"
#include "unit/check.h"

#define MASK "\x01\x02\x03\x04"
#define BYTES(s) (s), sizeof(s) - 1

/* What the frames carry, on ctx; they come in pieces of that length. */
static char *carried(const void *ctx, struct ws *w, const char *frames, size_t n, size_t piece,
		     size_t *ret_n)
{
	char *all = talloc_zero_size(ctx, n + 1);
	bool more = true;
	*ret_n = 0;
	for (size_t at = 0; at < n && more; at += piece) {
		size_t now = n - at < piece ? n - at : piece;
		char *bytes = talloc_memdup(ctx, frames + at, now);
		more = ws_unwrap(w, bytes, now, &now);
		memcpy(all + *ret_n, bytes, now);
		*ret_n += now;
	}
	CHECK(more == !w->close);
	return all;
}

static const struct {
	const char *frames;
	size_t n;
	const char *text; /* that they carry */
	int close;        /* 0: it goes on */
} rows[] = {
	{ BYTES("\x82\x83" MASK "SDA"), "RFB", 0 },
	{ BYTES("\x81\x83" MASK "SDA"), "RFB", 0 }, /* as text */
	{ BYTES("\x82\x80" MASK), "", 0 },
	/* A message in two frames, and a ping between them. */
	{ BYTES("\x02\x81" MASK "S\x89\x80" MASK "\x80\x82" MASK "GE"), "RFG", 0 },
	{ BYTES("\x82\x81" MASK "S\x82\x81" MASK "G"), "RF", 0 },
	{ BYTES("\x8a\x82" MASK "xy\x82\x81" MASK "S"), "R", 0 }, /* a pong that nobody asked for */
	/* The end, with a code, without one, with half of one, with a bad one. */
	{ BYTES("\x82\x81" MASK "S\x88\x82" MASK "\x02\xea\x82\x81" MASK "S"), "R", 1000 },
	{ BYTES("\x88\x80" MASK), "", WS_NORMAL },
	{ BYTES("\x88\x84" MASK "\x0e\xa2hi"), "", 4000 },
	{ BYTES("\x88\x81" MASK "\x02"), "", WS_VIOLATION },
	{ BYTES("\x88\x82" MASK "\x02\xef"), "", WS_VIOLATION }, /* 1005 */
	/* What no client may send. */
	{ BYTES("\x82\x03RFB"), "", WS_VIOLATION },              /* no mask */
	{ BYTES("\xc2\x81" MASK "S"), "", WS_VIOLATION },        /* a reserved bit */
	{ BYTES("\x83\x81" MASK "S"), "", WS_VIOLATION },        /* an unknown opcode */
	{ BYTES("\x8b\x80" MASK), "", WS_VIOLATION },            /* an unknown control frame */
	{ BYTES("\x80\x81" MASK "S"), "", WS_VIOLATION },        /* continues nothing */
	{ BYTES("\x02\x81" MASK "S\x82\x81" MASK "S"), "R", WS_VIOLATION }, /* begins in a message */
	{ BYTES("\x09\x80" MASK), "", WS_VIOLATION },            /* a ping in pieces */
	{ BYTES("\x89\xfe\x00\x7e" MASK), "", WS_VIOLATION },    /* a ping of 126 bytes */
	{ BYTES("\x82\xfe\x00\x7d" MASK), "", WS_VIOLATION },    /* a length that needs no two bytes */
	{ BYTES("\x82\xff\0\0\0\0\0\0\xff\xff" MASK), "", WS_VIOLATION },
	{ BYTES("\x82\xff\x80\0\0\0\0\0\0\0" MASK), "", WS_VIOLATION },
};

static void test_rows(const void *ctx)
{
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (size_t piece = 1; piece <= rows[i].n; piece++) {
			struct ws w = { 0 };
			size_t n;
			const char *text = carried(ctx, &w, rows[i].frames, rows[i].n, piece, &n);
			if (n == strlen(rows[i].text) && streq(text, rows[i].text) &&
			    w.close == rows[i].close)
				continue;
			fprintf(stderr, "row %zu in pieces of %zu: \"%s\", close %d\n", i, piece,
				text, w.close);
			exit(1);
		}
	}
}

/* Lengths of each form, through a mask. */
static void test_lengths(const void *ctx)
{
	static const size_t lengths[] = { 125, 126, 65535, 65536, 200000 };
	for (size_t i = 0; i < COUNT(lengths); i++) {
		size_t n = lengths[i], head = n < 126 ? 6 : n < 65536 ? 8 : 14, got;
		char *frame = talloc_zero_size(ctx, head + n);
		frame[0] = (char)0x82;
		frame[1] = (char)(0x80 | (n < 126 ? n : n < 65536 ? 126 : 127));
		for (size_t b = 0; b < head - 6; b++)
			frame[head - 5 - b] = (char)(n >> (8 * b));
		memcpy(frame + head - 4, MASK, 4);
		for (size_t b = 0; b < n; b++)
			frame[head + b] = (char)((b % 251) ^ (size_t)MASK[b % 4]);
		struct ws w = { 0 };
		char *bytes = carried(ctx, &w, frame, head + n, 4096, &got);
		CHECK(got == n && !w.close);
		for (size_t b = 0; b < n; b++)
			CHECK((unsigned char)bytes[b] == b % 251);
		talloc_free(frame);
	}
}

static void test_out(void)
{
	char bytes[4 + 65535] = "";
	CHECK(ws_wrap(NULL, bytes + 4, 1) == 2 && !memcmp(bytes + 2, "\x82\x01", 2));
	CHECK(ws_wrap(NULL, bytes + 4, 125) == 2 && !memcmp(bytes + 2, "\x82\x7d", 2));
	CHECK(ws_wrap(NULL, bytes + 4, 126) == 4 && !memcmp(bytes, "\x82\x7e\x00\x7e", 4));
	CHECK(ws_wrap(NULL, bytes + 4, 65535) == 4 && !memcmp(bytes, "\x82\x7e\xff\xff", 4));
}

static void test_own(const void *ctx)
{
	char said[200];
	size_t n;
	struct ws w = { 0 };
	CHECK(ws_own(&w, said, false) == 0);
	/* Only the newest ping is answered. */
	carried(ctx, &w, BYTES("\x89\x82" MASK "``\x89\x82" MASK "`a"), 99, &n);
	CHECK(ws_own(&w, said, false) == 4 && !memcmp(said, "\x8a\x02" "ac", 4));
	CHECK(ws_own(&w, said, false) == 0);
	CHECK(ws_own(&w, said, true) == 4 && !memcmp(said, "\x88\x02\x03\xe8", 4));
	CHECK(ws_own(&w, said, true) == 0);

	struct ws bad = { 0 };
	carried(ctx, &bad, BYTES("\x82\x03RFB"), 99, &n);
	CHECK(ws_own(&bad, said, true) == 4 && !memcmp(said, "\x88\x02\x03\xea", 4));
}

static void test_keys(const void *ctx)
{
	CHECK(streq(ws_answer_to(ctx, "dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
	CHECK(!ws_answer_to(ctx, ""));
	CHECK(!ws_answer_to(ctx, "dGhlIHNhbXBsZSBub25jZQ="));
	CHECK(!ws_answer_to(ctx, "dGhlIHNhbXBsZSBub25jZQAA"));
	CHECK(!ws_answer_to(ctx, "!!hlIHNhbXBsZSBub25jZQ=="));
}

int main(void)
{
	void *ctx = talloc_new(NULL);
	test_rows(ctx);
	test_lengths(ctx);
	test_out();
	test_own(ctx);
	test_keys(ctx);
	talloc_free(ctx);
	return 0;
}
