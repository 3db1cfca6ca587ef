// SPDX-License-Identifier: Apache-2.0
/* fuzz_qcow2.c -- any bytes as the start of an image: the first 8 are the file's size. */
#include <assert.h>
#include <string.h>
#include <talloc.h>

#include "base/text.h"
#include "sr/header.h"
#include "sr/sr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* What holds for every header that was not refused. */
static void check(const struct header *h)
{
	char parent[25];
	assert(h->version == 2 || h->version == 3);
	assert(h->size > 0 && h->size <= HEADER_SIZE_MAX);
	assert(h->cluster_bits >= 9 && h->cluster_bits <= 21);
	assert(memchr(h->backing, 0, sizeof h->backing));
	assert(memchr(h->backing_format, 0, sizeof h->backing_format));
	assert(!*h->backing == !header_alone(h));
	if (header_ours(h, parent))
		return;
	assert(!*parent || volume_id_ok(parent));
	assert(!*parent == !*h->backing && h->size % 512 == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint64_t file_size;
	struct header h;
	if (n < sizeof file_size)
		return 0;
	memcpy(&file_size, data, sizeof file_size);
	void *ctx = talloc_new(NULL);
	assert(header_values(ctx, data + sizeof file_size, n - sizeof file_size));
	talloc_free(ctx);
	if (!header_read(data + sizeof file_size, n - sizeof file_size, file_size, &h))
		check(&h);
	return 0;
}
