// SPDX-License-Identifier: Apache-2.0
/* fuzz_migration.c -- what a QEMU that was taken over may send as its memory. */
#include <stdint.h>

#include "base/task.h"
#include "base/text.h"
#include "memory/migration.h"
#include "unit/check.h"

enum { LIMIT = 2 << 20 }; /* more than MIGRATION_BLOCKS pages */

struct input {
	const uint8_t *data;
	size_t n;
	size_t blocks;
	uint64_t sizes[MIGRATION_BLOCKS];
	bool ended;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ssize_t some(struct task *t, void *arg, void *to, size_t n)
{
	struct input *in = arg;
	(void)t;
	n = n < in->n ? n : in->n;
	n = n < 1000 ? n : 1000;
	memcpy(to, in->data, n);
	in->data += n;
	in->n -= n;
	return (ssize_t)n;
}

static int begin(struct task *t, void *arg, const char *machine, size_t n,
		 const struct migration_block *blocks)
{
	struct input *in = arg;
	uint64_t all = 0;
	(void)t;
	CHECK(machine && !in->blocks && n > 0 && n <= MIGRATION_BLOCKS);
	in->blocks = n;
	for (size_t i = 0; i < n; i++) {
		CHECK(*blocks[i].name && blocks[i].size && blocks[i].size % MIGRATION_PAGE == 0);
		all += in->sizes[i] = blocks[i].size;
	}
	CHECK(all <= LIMIT);
	return 0;
}

static int page(struct task *t, void *arg, size_t block, uint64_t offset, const void *bytes)
{
	const struct input *in = arg;
	volatile uint8_t sum = 0;
	(void)t;
	CHECK(block < in->blocks && offset % MIGRATION_PAGE == 0 && offset < in->sizes[block]);
	for (size_t i = 0; bytes && i < MIGRATION_PAGE; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
	return 0;
}

static int state(struct task *t, void *arg, const void *bytes, size_t n)
{
	struct input *in = arg;
	(void)t;
	CHECK(in->blocks && bytes && n >= 6 && !in->ended);
	in->ended = true;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	struct input in = { .data = data, .n = size };
	const struct migration_source source = { some, &in };
	const struct migration_sink sink = { begin, page, state, &in };
	int result = migration_read(t, &source, LIMIT, &sink);
	CHECK(result == 0 ? in.ended && t->code == NO_ERROR : t->code != NO_ERROR);
	talloc_free(t);
	return 0;
}
