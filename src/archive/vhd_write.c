// SPDX-License-Identifier: Apache-2.0
#include "archive/vhd.h"

#include <string.h>
#include <time.h>

#include "archive/blocks.h"
#include "base/bytes.h"
#include "archive/image.h"
#include "base/clock.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"

enum {
	BLOCK = 1 << VHD_BITS,
	BITMAP = BLOCK / 512 / 8,
	TABLE_AT = VHD_FOOTER + VHD_HEADER,
	YEAR_2000 = 946684800,
};

static uint64_t table_bytes(const struct blocks *b)
{
	return (b->n * 4 + 511) & ~UINT64_C(511);
}

uint64_t vhd_length(const struct blocks *b)
{
	return TABLE_AT + table_bytes(b) + b->used * (BITMAP + BLOCK) + VHD_FOOTER;
}

static void put_checksum(unsigned char *b, size_t n, size_t at)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += b[i];
	put_be(b + at, 4, ~sum);
}

/* Cylinders, heads and sectors as the format's own rule has them; the largest for what is larger. */
static uint32_t geometry(uint64_t sectors)
{
	uint64_t most = 65535 * 16 * 255;
	uint64_t total = sectors < most ? sectors : most, tracks;
	uint32_t heads = 16, per_track;
	if (total > 65535 * 16 * 63) {
		per_track = 255;
		tracks = total / per_track;
	} else {
		per_track = 17;
		tracks = total / per_track;
		heads = (uint32_t)((tracks + 1023) / 1024);
		heads = heads < 4 ? 4 : heads;
		if (tracks >= heads * 1024 || heads > 16) {
			per_track = 31;
			heads = 16;
			tracks = total / per_track;
		}
		if (tracks >= heads * 1024) {
			per_track = 63;
			tracks = total / per_track;
		}
	}
	return (uint32_t)(tracks / heads) << 16 | heads << 8 | per_track;
}

static void put_footer(struct task *t, const struct blocks *b, unsigned char *f)
{
	size_t n;
	memset(f, 0, VHD_FOOTER);
	memcpy(f, "conectix", 8);
	put_be(f + 8, 4, 2);
	put_be(f + 12, 4, 0x00010000);
	put_be(f + 16, 8, VHD_FOOTER);
	put_be(f + 24, 4, (uint64_t)(clock_day_s() - YEAR_2000));
	memcpy(f + 28, "tap", 4);
	put_be(f + 32, 4, 0x00010003);
	put_be(f + 40, 8, b->size);
	put_be(f + 48, 8, b->size);
	put_be(f + 56, 4, geometry(b->size / 512));
	put_be(f + 60, 4, 3);
	memcpy(f + 68, hex_bytes(t, random_hex(t, 16), &n), 16);
	put_checksum(f, VHD_FOOTER, 64);
}

static void put_header(const struct blocks *b, unsigned char *h)
{
	memset(h, 0, VHD_HEADER);
	memcpy(h, "cxsparse", 8);
	put_be(h + 8, 8, UINT64_MAX);
	put_be(h + 16, 8, TABLE_AT);
	put_be(h + 24, 4, 0x00010000);
	put_be(h + 28, 4, b->n);
	put_be(h + 32, 4, BLOCK);
	put_checksum(h, VHD_HEADER, 36);
}

static int write_table(struct task *t, const struct blocks *b, struct stream *out)
{
	size_t n = (size_t)table_bytes(b);
	unsigned char *table = talloc_array(t, unsigned char, n);
	uint64_t sector = (TABLE_AT + n) / 512;
	memset(table, 0xff, n);
	for (uint64_t i = 0; i < b->n; i++)
		if (blocks_has(b, i)) {
			put_be(table + 4 * i, 4, sector);
			sector += (BITMAP + BLOCK) / 512;
		}
	int result = stream_write(t, out, table, n);
	talloc_free(table);
	return result;
}

static int write_blocks(struct task *t, const struct blocks *b, struct image_disk *disk,
			struct stream *out)
{
	char *block = talloc_array(t, char, BITMAP + BLOCK);
	memset(block, 0xff, BITMAP);
	for (uint64_t i = 0; i < b->n; i++)
		if (blocks_has(b, i) && (blocks_read(t, b, disk, i, 1, block + BITMAP) < 0 ||
					 stream_write(t, out, block, BITMAP + BLOCK) < 0))
			return -1;
	talloc_free(block);
	return 0;
}

int vhd_write(struct task *t, const struct blocks *b, struct image_disk *disk, struct stream *out)
{
	unsigned char footer[VHD_FOOTER], header[VHD_HEADER];
	put_footer(t, b, footer);
	put_header(b, header);
	if (stream_write(t, out, footer, sizeof footer) < 0 ||
	    stream_write(t, out, header, sizeof header) < 0 || write_table(t, b, out) < 0 ||
	    write_blocks(t, b, disk, out) < 0)
		return -1;
	return stream_write(t, out, footer, sizeof footer);
}
