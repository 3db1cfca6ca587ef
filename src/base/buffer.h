// SPDX-License-Identifier: Apache-2.0
/* buffer.h -- bytes that are gathered piece by piece, up to a limit.  Outside of talloc: for what lives long
 * and is written to often. */
#pragma once

#include <stddef.h>

/* Zero is empty; free(text) ends it. */
struct buffer {
	char *text; /* a NUL stands behind the n bytes */
	size_t n, size;
};

/* -1: there would be more than limit, or there is no memory; the buffer is as it was. */
int buffer_add(struct buffer *, const char *bytes, size_t n, size_t limit);
