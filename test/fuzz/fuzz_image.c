// SPDX-License-Identifier: Apache-2.0
/* fuzz_image.c -- a file that says it is a memory image.  Its checksums are made right, or nothing but they would be
 * looked at: it is what somebody has made, not what a disk has damaged.  Behind the input comes a hole of some MiB, in
 * which pages may be: zeros that are said to be none. */
#include <jansson.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"
#include "unit/check.h"

enum { FIELDS = 128, FILE_BYTES = 4 << 20, BLOCKS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set_sum(unsigned char *part, const uint8_t *file, size_t n)
{
	uint64_t at = get_be(part, 8), bytes = get_be(part + 8, 8);
	if (at <= n && bytes <= n - at)
		put_be(part + 16, 8, XXH3_64bits(file + at, bytes));
}

/* The input: what the header says, then what follows it. */
static size_t build(struct task *t, const uint8_t *data, size_t size, unsigned char **ret)
{
	size_t n = IMAGE_HEADER + size;
	unsigned char *file = talloc_zero_size(t, n);
	memcpy(file, data, size < FIELDS ? size : FIELDS);
	if (size > FIELDS)
		memcpy(file + IMAGE_HEADER, data + FIELDS, size - FIELDS);
	memcpy(file, IMAGE_MAGIC, 8);
	put_be(file + AT_VERSION, 4, IMAGE_VERSION);
	set_sum(file + AT_SUMS, file, n);
	set_sum(file + AT_TABLE, file, n);
	*ret = file;
	return n;
}

/* The blocks of the table as far as they are any, for the sum of what lies between them. */
static size_t read_blocks(const unsigned char *file, size_t n, struct image_block *blocks)
{
	uint64_t at = get_be(file + AT_TABLE, 8), bytes = get_be(file + AT_TABLE + 8, 8);
	size_t found = 0;
	if (at > n || bytes > n - at)
		return 0;
	json_t *table = json_loadb((const char *)file + at, bytes, 0, NULL);
	const json_t *all = json_object_get(table, "blocks");
	for (; found < BLOCKS && found < json_array_size(all); found++) {
		const json_t *b = json_array_get(all, found);
		blocks[found].size = (uint64_t)json_integer_value(json_object_get(b, "size"));
		blocks[found].pages_at =
			(uint64_t)json_integer_value(json_object_get(b, "pages at"));
	}
	json_decref(table);
	return found;
}

static void set_stream_sum(unsigned char *file, size_t n, int fd)
{
	struct task *t = task_new(NULL, "fuzz");
	struct image_block blocks[BLOCKS];
	struct image m = { .fd = fd, .blocks = blocks, .stream_end = get_be(file + AT_STREAM, 8) };
	uint64_t sum;
	m.nblocks = read_blocks(file, n, blocks);
	if (image_sum_stream(t, &m, &sum) == 0)
		put_be(file + AT_STREAM + 8, 8, sum);
	put_be(file + AT_CHECK, 8, XXH3_64bits(file, AT_CHECK));
	CHECK(pwrite(fd, file, IMAGE_HEADER, 0) == IMAGE_HEADER);
	talloc_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	unsigned char *file, page[MIGRATION_PAGE];
	size_t n = build(t, data, size, &file);
	int fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, file, n) == (ssize_t)n && ftruncate(fd, FILE_BYTES) == 0);
	set_stream_sum(file, n, fd);
	struct image *i = image_open(t, fd);
	CHECK(i ? i->nblocks > 0 && t->code == NO_ERROR : t->code != NO_ERROR);
	if (i && image_verify(t, i) == 0)
		CHECK(image_page(t, i, 0, 0, page) == 0);
	close(fd);
	talloc_free(t);
	return 0;
}
