// SPDX-License-Identifier: Apache-2.0
/* image_read.c -- an image that is whole: nothing of it is used that was not verified. */
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"

enum { DEPTH = 16, PIECE = 1 << 20 };

static int damaged(struct task *t, const char *what)
{
	return fail(t, INTERNAL_ERROR,
		    str(t,
			"The memory image is damaged: %s. Delete the snapshot that it belongs to; "
			"others "
			"are not affected.",
			what));
}

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
		return damaged(t, "it has no header, so it was not finished");
	if (get_be(header + AT_CHECK, 8) != XXH3_64bits(header, AT_CHECK))
		return damaged(t, "the checksum of its header is wrong");
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
		damaged(t, str(t, "the size of its %s is %llu", what, (unsigned long long)part->n));
		return NULL;
	}
	void *bytes = talloc_size(m, part->n + 1);
	if (image_pread(t, m->fd, bytes, part->n, part->at) < 0)
		return NULL;
	if (XXH3_64bits(bytes, part->n) != part->sum) {
		damaged(t, str(t, "the checksum of its %s is wrong", what));
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
		return damaged(t, "its table has a block that cannot be");
	b->size = (uint64_t)size;
	b->pages_at = (uint64_t)at;
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
		return damaged(t, "its table is of another form");
	m->blocks = talloc_zero_array(m, struct image_block, (unsigned)json_array_size(blocks));
	for (size_t i = 0; i < json_array_size(blocks); i++)
		if (read_block(t, m, json_array_get(blocks, i), &end) < 0)
			return -1;
	return 0;
}

/* ---- sums ---- */

static uint64_t pages_of(const struct image *m)
{
	uint64_t n = 0;
	for (size_t i = 0; i < m->nblocks; i++)
		n += m->blocks[i].size / MIGRATION_PAGE;
	return n;
}

static int read_sums(struct task *t, struct image *m, const struct image_part *part)
{
	uint64_t n = pages_of(m);
	if (part->n != n * sizeof(uint64_t))
		return damaged(t, "it has not a checksum for each page");
	uint64_t *sums = read_part(t, m, part, part->n, "checksums");
	if (!sums)
		return -1;
	for (size_t i = 0; i < n; i++) {
		sums[i] = get_be(&sums[i], 8);
		m->used += sums[i] ? MIGRATION_PAGE : 0;
	}
	for (size_t i = 0; i < m->nblocks; i++) {
		m->blocks[i].sums = sums;
		sums += m->blocks[i].size / MIGRATION_PAGE;
	}
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
	if (read_table(t, m, &table) < 0 || read_sums(t, m, &sums) < 0 ||
	    image_sum_stream(t, m, &sum) < 0)
		return NULL;
	if (sum != get_be(header + AT_STREAM + 8, 8)) {
		damaged(t, "the checksum of its devices is wrong");
		return NULL;
	}
	return m;
}

/* ---- pages ---- */

static int wrong_page(struct task *t, const struct image_block *b, uint64_t offset)
{
	return damaged(t, str(t, "the page at %llu of %s is not what was written",
			      (unsigned long long)offset, b->name));
}

int image_page(struct task *t, const struct image *m, size_t block, uint64_t offset,
	       unsigned char page[MIGRATION_PAGE])
{
	const struct image_block *b = &m->blocks[block];
	uint64_t sum = b->sums[offset / MIGRATION_PAGE];
	if (!sum) {
		memset(page, 0, MIGRATION_PAGE);
		return 0;
	}
	if (image_pread(t, m->fd, page, MIGRATION_PAGE, b->pages_at + offset) < 0)
		return -1;
	return image_sum(page) == sum ? 0 : wrong_page(t, b, offset);
}

/* The pages of a piece, as many as come before one of zeros. */
static size_t run_at(const struct image_block *b, uint64_t offset)
{
	size_t n = 0;
	while (n < PIECE && offset + n < b->size && b->sums[(offset + n) / MIGRATION_PAGE])
		n += MIGRATION_PAGE;
	return n;
}

static int verify_run(struct task *t, const struct image *m, const struct image_block *b,
		      uint64_t offset, size_t n, unsigned char *piece)
{
	if (image_pread(t, m->fd, piece, n, b->pages_at + offset) < 0)
		return -1;
	for (size_t i = 0; i < n; i += MIGRATION_PAGE)
		if (image_sum(piece + i) != b->sums[(offset + i) / MIGRATION_PAGE])
			return wrong_page(t, b, offset + i);
	return 0;
}

static int verify_block(struct task *t, const struct image *m, const struct image_block *b,
			uint64_t *done, unsigned char *piece)
{
	for (uint64_t offset = 0; offset < b->size;) {
		size_t n = run_at(b, offset);
		if (!n) {
			offset += MIGRATION_PAGE;
			continue;
		}
		if (task_check(t) < 0 || verify_run(t, m, b, offset, n, piece) < 0)
			return -1;
		offset += n;
		*done += n;
		task_progress(t, (double)*done / (double)m->used);
	}
	return 0;
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
