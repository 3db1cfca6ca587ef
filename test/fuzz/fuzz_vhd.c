// SPDX-License-Identifier: Apache-2.0
/* fuzz_vhd.c -- any bytes as a VHD's parts: a byte that says whether the checksums are made right, 8 of the
 * file's size, footer, header, table, and what is last is the footer at the end, too. */
#include <assert.h>
#include <string.h>
#include <talloc.h>

#include "base/bytes.h"
#include "archive/vhd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void make_right(unsigned char *part, size_t n, size_t at)
{
	uint32_t sum = 0;
	memset(part + at, 0, 4);
	for (size_t i = 0; i < n; i++)
		sum += part[i];
	put_be(part + at, 4, ~sum);
}

/* What holds for every map that was not refused: the blocks are in the file, in order, apart, and over
 * neither header nor table. */
static void check(const struct vhd *v, const struct vhd_map *m, uint64_t file_size)
{
	uint64_t end = VHD_FOOTER;
	for (size_t i = 0; i < m->n; i++) {
		uint64_t at = m->v[i].at, next = at + v->block + v->block / 4096;
		assert(at >= end && m->v[i].number < v->entries);
		assert(next <= file_size && file_size - next >= VHD_FOOTER);
		assert(next <= v->header_at || at >= v->header_at + VHD_HEADER);
		assert(next <= v->table_at || at >= v->table_at + vhd_table_bytes(v));
		end = next;
	}
}

static void read_parts(const void *ctx, unsigned char *b, size_t n, uint64_t file_size, bool right)
{
	struct vhd v = { 0 };
	struct vhd_map m = { 0 };
	unsigned char *header = b + VHD_FOOTER, *table = header + VHD_HEADER;
	if (right) {
		make_right(b, VHD_FOOTER, 64);
		make_right(header, VHD_HEADER, 36);
	}
	if (vhd_read_footer(ctx, b, &v) || !v.dynamic)
		return;
	assert(v.size > 0 && v.size % 512 == 0 && v.size <= VHD_SIZE_MAX);
	if (vhd_read_header(ctx, header, &v))
		return;
	assert(vhd_table_bytes(&v) <= VHD_TABLE_MAX && (uint64_t)v.entries * v.block >= v.size);
	assert(!vhd_check_end(ctx, b, &v));
	vhd_check_end(ctx, b + n - VHD_FOOTER, &v);
	if (vhd_table_bytes(&v) <= n - VHD_FOOTER - VHD_HEADER &&
	    !vhd_read_table(ctx, table, file_size, &v, &m))
		check(&v, &m, file_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint64_t file_size;
	if (n < 9 + VHD_FOOTER + VHD_HEADER)
		return 0;
	memcpy(&file_size, data + 1, sizeof file_size);
	void *ctx = talloc_new(NULL);
	unsigned char *b = talloc_memdup(ctx, data + 9, n - 9);
	read_parts(ctx, b, n - 9, file_size % (UINT64_C(1) << 62), data[0] & 1);
	talloc_free(ctx);
	return 0;
}
