// SPDX-License-Identifier: Apache-2.0
#include "base/coding.h"

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum { SIZE_DIGITS = 15 }; /* below 2^60 */

static int wrong(struct task *t, const char *what)
{
	return fail(t, IMPORT_ERROR, str(t, "the data's HTTP chunks are broken: %s", what));
}

/* Exactly n bytes. */
static int take(struct task *t, int fd, void *to, size_t n)
{
	ssize_t got = io_read(t, fd, to, n, delay_ms(DELAY_STREAM_STALL));
	if (got < 0)
		return -1;
	return (size_t)got == n ? 0
				: fail(t, IMPORT_ERROR, "the data ended before their last chunk");
}

/* A line without its end; NUL behind it.  The line is read byte by byte, since the bytes behind it may be
 * somebody else's. */
static int take_line(struct task *t, int fd, char line[CODING_LINE])
{
	size_t n = 0;
	for (char c;; line[n++] = c) {
		if (take(t, fd, &c, 1) < 0)
			return -1;
		if (c == '\r')
			break;
		if (n == CODING_LINE - 1)
			return wrong(t, "a line has no end");
		if ((unsigned char)c < ' ' && c != '\t')
			return wrong(t, "a line has a control character in it");
	}
	char end;
	line[n] = 0;
	if (take(t, fd, &end, 1) < 0)
		return -1;
	return end == '\n' ? 0 : wrong(t, "a line ends in half");
}

static bool read_size(const char *line, uint64_t *ret)
{
	size_t n = strspn(line, "0123456789abcdefABCDEF");
	if (n == 0 || n > SIZE_DIGITS || (line[n] && !strchr("; \t", line[n])))
		return false;
	uint64_t size = 0;
	for (size_t i = 0; i < n; i++) {
		char c = line[i];
		size = size << 4 | (uint64_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
	}
	*ret = size;
	return true;
}

static int pass_rest(struct task *t, int fd, char line[CODING_LINE])
{
	for (int i = 0; i < CODING_LINES; i++) {
		if (take_line(t, fd, line) < 0)
			return -1;
		if (!*line)
			return 0;
	}
	return wrong(t, "too many lines are behind the last");
}

/* Reads the line in front of a chunk.  Behind the last chunk it also reads all that follows. */
static int begin_chunk(struct task *t, int fd, struct coding *c)
{
	char line[CODING_LINE];
	if (take_line(t, fd, line) < 0)
		return -1;
	if (!read_size(line, &c->left))
		return wrong(t, str(t, "\"%s\" is no length", text_plain(t, line, 40)));
	c->in_chunk = c->left > 0;
	if (c->in_chunk)
		return 0;
	c->over = pass_rest(t, fd, line) == 0;
	return c->over ? 0 : -1;
}

static int end_chunk(struct task *t, int fd, struct coding *c)
{
	char end[2];
	if (take(t, fd, end, sizeof end) < 0)
		return -1;
	c->in_chunk = false;
	return end[0] == '\r' && end[1] == '\n' ? 0 : wrong(t, "one is longer than it says");
}

ssize_t coding_read(struct task *t, int fd, struct coding *c, void *to, size_t n)
{
	size_t done = 0;
	while (done < n && !c->over) {
		if (!c->in_chunk && begin_chunk(t, fd, c) < 0)
			return -1;
		size_t part = c->left < n - done ? (size_t)c->left : n - done;
		if (part && take(t, fd, (char *)to + done, part) < 0)
			return -1;
		done += part;
		c->left -= part;
		if (c->in_chunk && !c->left && end_chunk(t, fd, c) < 0)
			return -1;
	}
	return (ssize_t)done;
}
