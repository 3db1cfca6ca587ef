// SPDX-License-Identifier: Apache-2.0
/* buffer.h -- bytes that are gathered piece by piece, up to a limit.  Outside of talloc: for what lives long
 * and is written to often. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Zero is empty; free(text) ends it. */
struct buffer {
	char *text; /* a NUL stands behind the n bytes */
	size_t n, size;
	bool full; /* something did not fit; nothing does after it, so that no hole is left */
};

/* -1: there would be more than limit, or there is no memory, or the buffer was full before; its
 * bytes are as they were. */
int buffer_add(struct buffer *, const char *bytes, size_t n, size_t limit);
