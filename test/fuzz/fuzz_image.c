// SPDX-License-Identifier: Apache-2.0
/* fuzz_image.c -- a file that says it is a memory image.  Its checksums are made right, or nothing but they would be
 * looked at: it is what somebody has made, not what a disk has damaged. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"
#include "unit/check.h"

enum { FIELDS = 128 };

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
	put_be(file + AT_CHECK, 8, XXH3_64bits(file, AT_CHECK));
	*ret = file;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	unsigned char *file, page[MIGRATION_PAGE];
	size_t n = build(t, data, size, &file);
	int fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, file, n) == (ssize_t)n);
	struct image *i = image_open(t, fd);
	CHECK(i ? i->nblocks > 0 && t->code == NO_ERROR : t->code != NO_ERROR);
	if (i && image_verify(t, i) == 0)
		CHECK(image_page(t, i, 0, 0, page) == 0);
	close(fd);
	talloc_free(t);
	return 0;
}
