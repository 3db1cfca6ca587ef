// SPDX-License-Identifier: Apache-2.0
/* image_file.c -- bytes and checksums of an image's file. */
#include "memory/image_file.h"

#include <errno.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/task.h"
#include "base/text.h"
#include "memory/sums.h"

int image_pread(struct task *t, int fd, void *to, size_t n, uint64_t at)
{
	for (char *p = to; n;) {
		ssize_t got = pread(fd, p, n, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return task_fail_errno(t, errno, "memory image");
		if (!got)
			return fail(t, INTERNAL_ERROR, "The memory image is cut off.");
		p += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

int image_pwrite(struct task *t, int fd, const void *from, size_t n, uint64_t at)
{
	for (const char *p = from; n;) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return task_fail_errno(t, errno, "memory image");
		p += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return 0;
}

uint64_t image_sum(const void *page)
{
	uint64_t sum = XXH3_64bits(page, MIGRATION_PAGE);
	return sum ? sum : 1;
}

int image_find(struct task *t, const struct image *m, const struct image_block *b, uint64_t page,
	       uint64_t *ret)
{
	uint64_t found, end = b->first + b->size / MIGRATION_PAGE;
	if (sums_find(t, m->sums, b->first + page, end, &found) < 0)
		return -1;
	*ret = found - b->first;
	return 0;
}

int image_damaged(struct task *t, const char *what)
{
	return fail(t, INTERNAL_ERROR,
		    str(t,
			"The memory image is damaged: %s. Delete the snapshot that it belongs to; "
			"others are not affected.",
			what));
}

static int sum_range(struct task *t, int fd, uint64_t from, uint64_t to, XXH3_state_t *sum)
{
	unsigned char piece[64 << 10];
	while (from < to) {
		size_t n = to - from < sizeof piece ? (size_t)(to - from) : sizeof piece;
		if (image_pread(t, fd, piece, n, from) < 0)
			return -1;
		XXH3_64bits_update(sum, piece, n);
		from += n;
	}
	return 0;
}

int image_sum_stream(struct task *t, const struct image *m, uint64_t *ret)
{
	XXH3_state_t *sum = XXH3_createState();
	uint64_t from = IMAGE_STREAM_AT;
	int result = 0;
	XXH3_64bits_reset(sum);
	for (size_t i = 0; result == 0 && i < m->nblocks; i++) {
		result = sum_range(t, m->fd, from, m->blocks[i].pages_at, sum);
		from = m->blocks[i].pages_at + m->blocks[i].size;
	}
	if (result == 0)
		result = sum_range(t, m->fd, from, m->stream_end, sum);
	*ret = XXH3_64bits_digest(sum);
	XXH3_freeState(sum);
	return result;
}
