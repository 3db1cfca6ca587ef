// SPDX-License-Identifier: Apache-2.0
#include "archive/blocks.h"

#include <string.h>

#include "archive/image.h"
#include "base/task.h"

enum { STRETCH = 1 << 30 };

struct blocks *blocks_new(const void *ctx, uint64_t size, unsigned bits)
{
	struct blocks *b = talloc_zero(ctx, struct blocks);
	b->size = size;
	b->bits = bits;
	b->n = (size + (UINT64_C(1) << bits) - 1) >> bits;
	b->map = talloc_zero_array(b, unsigned char, b->n / 8 + 1);
	return b;
}

void blocks_add(struct blocks *b, uint64_t block)
{
	b->used += !blocks_has(b, block);
	b->map[block / 8] |= (unsigned char)(1 << block % 8);
}

struct blocks *blocks_of(struct task *t, struct image_disk *disk, unsigned bits)
{
	struct blocks *b = blocks_new(t, disk->size, bits);
	for (uint64_t at = 0, n; at < disk->size; at += n) {
		bool data;
		if (task_check(t) < 0 || disk->extent(t, disk, at, STRETCH, &n, &data) < 0)
			return NULL;
		if (!data)
			continue;
		for (uint64_t i = at >> bits; i <= (at + n - 1) >> bits; i++)
			blocks_add(b, i);
	}
	return b;
}

bool blocks_has(const struct blocks *b, uint64_t block)
{
	return b->map[block / 8] >> block % 8 & 1;
}

/* 64 at once, where they are together: of a large disk most have none. */
uint64_t blocks_count(const struct blocks *b, uint64_t first, uint64_t n)
{
	uint64_t found = 0, end = n < b->n - first ? first + n : b->n;
	for (uint64_t i = first, word; i < end;) {
		if (i % 64 == 0 && end - i >= 64) {
			memcpy(&word, b->map + i / 8, sizeof word);
			found += (uint64_t)__builtin_popcountll(word);
			i += 64;
		} else {
			found += blocks_has(b, i++);
		}
	}
	return found;
}

uint64_t blocks_run(const struct blocks *b, uint64_t *first)
{
	uint64_t i = *first, most = IMAGE_PIECE >> b->bits, n = 0;
	while (i < b->n && !blocks_has(b, i))
		i += b->map[i / 8] || i % 8 ? 1 : 8;
	if (i >= b->n)
		return 0;
	while (n < most && i + n < b->n && blocks_has(b, i + n))
		n++;
	*first = i;
	return n;
}

int blocks_read(struct task *t, const struct blocks *b, struct image_disk *disk, uint64_t first,
		uint64_t n, void *to)
{
	uint64_t at = first << b->bits;
	size_t want = (size_t)(n << b->bits);
	size_t there = b->size - at < want ? (size_t)(b->size - at) : want;
	memset((char *)to + there, 0, want - there);
	return disk->read(t, disk, at, to, there);
}
