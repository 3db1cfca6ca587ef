// SPDX-License-Identifier: Apache-2.0
/* image_read.c -- an image that is whole: nothing of it is used that was not verified. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"
#include "memory/sums.h"

enum { DEPTH = 16, PIECE = 1 << 20, RUN_PAGES = PIECE / MIGRATION_PAGE };

/* ---- header and parts ---- */

static struct image_part get_part(const unsigned char *from)
{
	return (struct image_part){ get_be(from, 8), get_be(from + 8, 8), get_be(from + 16, 8) };
}

static int read_header(struct task *t, int fd, unsigned char header[IMAGE_HEADER])
{
	if (image_pread(t, fd, header, IMAGE_HEADER, 0) < 0)
		return -1;
	if (memcmp(header, IMAGE_MAGIC, 8) != 0)
		return image_damaged(t, "it has no header, so it was not finished");
	if (get_be(header + AT_CHECK, 8) != XXH3_64bits(header, AT_CHECK))
		return image_damaged(t, "the checksum of its header is wrong");
	uint64_t version = get_be(header + AT_VERSION, 4);
	if (version != IMAGE_VERSION)
		return fail(t, INTERNAL_ERROR,
			    str(t,
				"The memory image has version %llu, and this program knows version "
				"%d: "
				"use a newer one.",
				(unsigned long long)version, IMAGE_VERSION));
	return 0;
}

/* On m, n bytes. */
static void *read_part(struct task *t, struct image *m, const struct image_part *part,
		       uint64_t limit, const char *what)
{
	if (part->n > limit || part->at > INT64_MAX - part->n) {
		image_damaged(t, str(t, "the size of its %s is %llu", what,
				     (unsigned long long)part->n));
		return NULL;
	}
	void *bytes = talloc_size(m, part->n + 1);
	if (image_pread(t, m->fd, bytes, part->n, part->at) < 0)
		return NULL;
	if (XXH3_64bits(bytes, part->n) != part->sum) {
		image_damaged(t, str(t, "the checksum of its %s is wrong", what));
		return NULL;
	}
	return bytes;
}

/* ---- the table ---- */

static int read_block(struct task *t, struct image *m, json_t *j, uint64_t *end)
{
	struct image_block *b = &m->blocks[m->nblocks];
	json_int_t size, at;
	if (json_unpack(j, "{s:s, s:I, s:I}", "name", &b->name, "size", &size, "pages at", &at) <
		    0 ||
	    size <= 0 || size % MIGRATION_PAGE || at % IMAGE_PAGES_ALIGN || at < (json_int_t)*end ||
	    size > INT64_MAX - at || (uint64_t)(at + size) > m->stream_end)
		return image_damaged(t, "its table has a block that cannot be");
	b->size = (uint64_t)size;
	b->pages_at = (uint64_t)at;
	b->first = m->pages;
	if (b->size > IMAGE_RAM_MAX - m->pages * MIGRATION_PAGE)
		return image_damaged(t, "its blocks are larger than a VM's memory");
	m->pages += b->size / MIGRATION_PAGE;
	*end = b->pages_at + b->size;
	m->nblocks++;
	return 0;
}

static int read_table(struct task *t, struct image *m, const struct image_part *part)
{
	json_t *blocks;
	uint64_t end = IMAGE_STREAM_AT;
	char *text = read_part(t, m, part, IMAGE_TABLE_MAX, "table");
	json_t *table = text ? json_own(m, json_incref(json_read(t, text, part->n, DEPTH))) : NULL;
	if (!table)
		return -1;
	if (json_unpack(table, "{s:s, s:o, s:o}", "machine", &m->machine, "blocks", &blocks,
			"notes", &m->notes) < 0 ||
	    !json_array_size(blocks) || json_array_size(blocks) > MIGRATION_BLOCKS)
		return image_damaged(t, "its table is of another form");
	m->blocks = talloc_zero_array(m, struct image_block, (unsigned)json_array_size(blocks));
	for (size_t i = 0; i < json_array_size(blocks); i++)
		if (read_block(t, m, json_array_get(blocks, i), &end) < 0)
			return -1;
	return 0;
}

/* ---- sums and stream ---- */

/* All of it lies in the file. */
static int check_part(struct task *t, int fd, const struct image_part *part)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, "memory image");
	return part->at <= (uint64_t)st.st_size && part->n <= (uint64_t)st.st_size - part->at
		       ? 0
		       : fail(t, INTERNAL_ERROR, "The memory image is cut off.");
}

/* What is made for sums, and read of the stream, is no more than the blocks need.  Of the stream no pages are bitmaps,
 * QEMU's words about RAM and what aligns its pages, and devices. */
static int check_sizes(struct task *t, const struct image *m, const struct image_part *sums)
{
	uint64_t words = m->stream_end - IMAGE_STREAM_AT - m->pages * MIGRATION_PAGE;
	uint64_t most =
		m->pages / 8 + (m->nblocks + 1) * 2 * IMAGE_PAGES_ALIGN + MIGRATION_STATE_MAX;
	if (words > most)
		return image_damaged(t, str(t, "%llu bytes of its stream are no pages",
					    (unsigned long long)words));
	if (sums->n != m->pages * sizeof(uint64_t))
		return image_damaged(t, "it has not a checksum for each page");
	return check_part(t, m->fd, sums);
}

static int read_sums(struct task *t, struct image *m, const struct image_part *part)
{
	uint64_t used;
	m->sums = sums_new(m, m->fd, m->pages, SUMS_KEPT_READING);
	if (sums_read(t, m->sums, part, &used) < 0)
		return -1;
	m->used = used * MIGRATION_PAGE;
	return 0;
}

struct image *image_open(struct task *t, int fd)
{
	struct image *m = talloc_zero(t, struct image);
	unsigned char header[IMAGE_HEADER];
	uint64_t sum;
	m->fd = fd;
	if (read_header(t, fd, header) < 0)
		return NULL;
	struct image_part sums = get_part(header + AT_SUMS), table = get_part(header + AT_TABLE);
	m->stream_end = get_be(header + AT_STREAM, 8);
	if (read_table(t, m, &table) < 0 || check_sizes(t, m, &sums) < 0 ||
	    read_sums(t, m, &sums) < 0 || image_sum_stream(t, m, &sum) < 0)
		return NULL;
	if (sum != get_be(header + AT_STREAM + 8, 8)) {
		image_damaged(t, "the checksum of its devices is wrong");
		return NULL;
	}
	return m;
}

/* ---- pages ---- */

static int wrong_page(struct task *t, const struct image_block *b, uint64_t offset)
{
	return image_damaged(t, str(t, "the page at %llu of %s is not what was written",
				    (unsigned long long)offset, b->name));
}

int image_page(struct task *t, const struct image *m, size_t block, uint64_t offset,
	       unsigned char page[MIGRATION_PAGE])
{
	const struct image_block *b = &m->blocks[block];
	uint64_t sum;
	if (sums_get(t, m->sums, b->first + offset / MIGRATION_PAGE, &sum) < 0)
		return -1;
	if (!sum) {
		memset(page, 0, MIGRATION_PAGE);
		return 0;
	}
	if (image_pread(t, m->fd, page, MIGRATION_PAGE, b->pages_at + offset) < 0)
		return -1;
	return image_sum(page) == sum ? 0 : wrong_page(t, b, offset);
}

/* Pages that follow each other, none of them zeros, as many as a piece holds. */
struct run {
	const struct image_block *b;
	uint64_t page; /* the first one, in the block */
	size_t n;
	uint64_t sums[RUN_PAGES];
};

/* The sums of those that come after `page`, as many as come before one of zeros; n 0: there are none any more. */
static int next_run(struct task *t, const struct image *m, uint64_t page, struct run *r)
{
	uint64_t pages = r->b->size / MIGRATION_PAGE, sum;
	r->n = 0;
	if (image_find(t, m, r->b, page, &r->page) < 0)
		return -1;
	while (r->n < RUN_PAGES && r->page + r->n < pages) {
		if (sums_get(t, m->sums, r->b->first + r->page + r->n, &sum) < 0)
			return -1;
		if (!sum)
			break;
		r->sums[r->n++] = sum;
	}
	return 0;
}

static int verify_run(struct task *t, const struct image *m, const struct run *r,
		      unsigned char piece[PIECE])
{
	uint64_t offset = r->page * MIGRATION_PAGE;
	if (image_pread(t, m->fd, piece, r->n * MIGRATION_PAGE, r->b->pages_at + offset) < 0)
		return -1;
	for (size_t i = 0; i < r->n; i++)
		if (image_sum(piece + i * MIGRATION_PAGE) != r->sums[i])
			return wrong_page(t, r->b, offset + i * MIGRATION_PAGE);
	return 0;
}

static int verify_block(struct task *t, const struct image *m, const struct image_block *b,
			uint64_t *done, unsigned char *piece)
{
	struct run r = { .b = b };
	for (uint64_t page = 0;; page = r.page + r.n) {
		if (task_check(t) < 0 || next_run(t, m, page, &r) < 0)
			return -1;
		if (!r.n)
			return 0;
		if (verify_run(t, m, &r, piece) < 0)
			return -1;
		*done += r.n * MIGRATION_PAGE;
		task_progress(t, (double)*done / (double)m->used);
	}
}

int image_verify(struct task *t, const struct image *m)
{
	unsigned char *piece = talloc_size(t, PIECE);
	uint64_t done = 0;
	int result = 0;
	for (size_t i = 0; result == 0 && i < m->nblocks; i++)
		result = verify_block(t, m, &m->blocks[i], &done, piece);
	talloc_free(piece);
	return result;
}
