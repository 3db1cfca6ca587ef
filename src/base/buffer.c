// SPDX-License-Identifier: Apache-2.0
#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

int buffer_add(struct buffer *b, const char *bytes, size_t n, size_t limit)
{
	b->full |= n > limit - b->n;
	if (b->full)
		return -1;
	if (b->n + n >= b->size) {
		size_t size = 2 * (b->n + n) + 64;
		char *text = realloc(b->text, size);
		if (!text) {
			b->full = true;
			return -1;
		}
		b->text = text;
		b->size = size;
	}
	memcpy(b->text + b->n, bytes, n);
	b->n += n;
	b->text[b->n] = 0;
	return 0;
}
