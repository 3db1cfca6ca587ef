// SPDX-License-Identifier: Apache-2.0
#include "archive/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "archive/image.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"

enum {
	FIXED = 2,
	DYNAMIC = 3,
	DIFFERENCING = 4,
	BLOCK_MIN = 4096,
	BLOCK_MAX = 256 << 20,
	LOCATORS = 8,
	NO_BLOCK = -1, /* of an entry */
};

typedef unsigned long long number;

static bool checksum_ok(const unsigned char *b, size_t n, size_t at)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += i < at || i >= at + 4 ? b[i] : 0;
	return (uint32_t)get_be(b + at, 4) == ~sum;
}

/* ---- footer and header ---- */

static const char *check_type(const void *ctx, uint64_t type)
{
	if (type == DIFFERENCING)
		return "it is a differencing image (type 4): the rest of it is in another file";
	if (type != FIXED && type != DYNAMIC)
		return str(ctx, "its type is %llu, which is neither fixed nor dynamic",
			   (number)type);
	return NULL;
}

const char *vhd_read_footer(const void *ctx, const void *footer, struct vhd *ret)
{
	const unsigned char *f = footer;
	uint64_t version = get_be(f + 12, 4), size = get_be(f + 48, 8), type = get_be(f + 60, 4);
	uint64_t header_at = get_be(f + 16, 8);
	if (memcmp(f, "conectix", 8) != 0)
		return "it is no VHD image: there is no footer";
	if (!checksum_ok(f, VHD_FOOTER, 64))
		return str(ctx, "the checksum 0x%08llx of its footer is wrong",
			   (number)get_be(f + 64, 4));
	if (version >> 16 != 1)
		return str(ctx, "its version 0x%08llx is not known here", (number)version);
	const char *wrong = check_type(ctx, type);
	if (wrong)
		return wrong;
	if (size == 0 || size % 512 || size > VHD_SIZE_MAX)
		return str(ctx, "its disk size of %llu bytes is out of range", (number)size);
	if (type == DYNAMIC && (header_at < VHD_FOOTER || header_at > INT64_MAX / 2))
		return str(ctx, "its header is said to be at %llu", (number)header_at);
	ret->dynamic = type == DYNAMIC;
	ret->size = size;
	memcpy(ret->uuid, f + 68, sizeof ret->uuid);
	ret->header_at = type == DYNAMIC ? header_at : 0;
	return NULL;
}

const char *vhd_check_end(const void *ctx, const void *footer, const struct vhd *copy)
{
	struct vhd end = { 0 };
	const char *wrong = vhd_read_footer(ctx, footer, &end);
	if (wrong)
		return str(ctx,
			   "it is cut off, or damaged: the footer at its end is not what is at its "
			   "beginning (%s)",
			   wrong);
	if (end.dynamic != copy->dynamic || end.size != copy->size ||
	    end.header_at != copy->header_at || memcmp(end.uuid, copy->uuid, sizeof end.uuid) != 0)
		return "the footer at its end is that of another image than its beginning";
	return NULL;
}

static const char *check_parent(const void *ctx, const unsigned char *h)
{
	for (int i = 0; i < LOCATORS; i++) {
		const unsigned char *locator = h + 576 + 24 * i;
		if (get_be(locator, 4))
			return str(ctx, "it names a parent in another file (locator %d, %.4s)", i,
				   text_plain(ctx, talloc_strndup(ctx, (const char *)locator, 4),
					      4));
	}
	return is_zero(h + 64, 512) ? NULL : "it names a parent in another file";
}

const char *vhd_read_header(const void *ctx, const void *header, struct vhd *ret)
{
	const unsigned char *h = header;
	uint64_t table_at = get_be(h + 16, 8), version = get_be(h + 24, 4);
	uint64_t entries = get_be(h + 28, 4), block = get_be(h + 32, 4);
	if (memcmp(h, "cxsparse", 8) != 0)
		return str(ctx, "there is no header at %llu", (number)ret->header_at);
	if (!checksum_ok(h, VHD_HEADER, 36))
		return str(ctx, "the checksum 0x%08llx of its header is wrong",
			   (number)get_be(h + 36, 4));
	if (version >> 16 != 1)
		return str(ctx, "its header's version 0x%08llx is not known here", (number)version);
	if (block < BLOCK_MIN || block > BLOCK_MAX || block & (block - 1))
		return str(ctx, "its block size of %llu bytes is out of range", (number)block);
	if (entries * 4 > VHD_TABLE_MAX || entries * block < ret->size)
		return str(ctx, "its table of %llu entries does not fit a disk of %llu bytes",
			   (number)entries, (number)ret->size);
	if (table_at < VHD_FOOTER || table_at > INT64_MAX / 2)
		return str(ctx, "its table is said to be at %llu", (number)table_at);
	if (table_at < ret->header_at + VHD_HEADER &&
	    ret->header_at < table_at + ((entries * 4 + 511) & ~UINT64_C(511)))
		return str(ctx, "its table at %llu overlaps its header at %llu", (number)table_at,
			   (number)ret->header_at);
	const char *wrong = check_parent(ctx, h);
	if (wrong)
		return wrong;
	ret->table_at = table_at;
	ret->entries = (uint32_t)entries;
	ret->block = (uint32_t)block;
	return NULL;
}

/* ---- the table ---- */

uint64_t vhd_table_bytes(const struct vhd *v)
{
	return ((uint64_t)v->entries * 4 + 511) & ~UINT64_C(511);
}

/* Rounded up to the sector. */
static uint32_t bitmap_bytes(const struct vhd *v)
{
	return (v->block / 512 / 8 + 511) & ~(uint32_t)511;
}

static bool overlap(uint64_t a, uint64_t a_n, uint64_t b, uint64_t b_n)
{
	return a < b + b_n && b < a + a_n;
}

static const char *check_block(const void *ctx, const struct vhd *v, uint64_t file_size,
			       const struct vhd_block *b)
{
	uint64_t n = bitmap_bytes(v) + v->block;
	if (n + VHD_FOOTER > file_size || b->at > file_size - VHD_FOOTER - n)
		return str(ctx,
			   "its block %u is said to be at %llu, of %llu bytes, behind the file's "
			   "end at "
			   "%llu or the footer there",
			   b->number, (number)b->at, (number)n, (number)file_size);
	if (b->at < VHD_FOOTER || overlap(b->at, n, v->header_at, VHD_HEADER) ||
	    overlap(b->at, n, v->table_at, vhd_table_bytes(v)))
		return str(ctx, "its block %u at %llu overlaps its header or table", b->number,
			   (number)b->at);
	return NULL;
}

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct vhd_block *)a)->at, y = ((const struct vhd_block *)b)->at;
	return (x > y) - (x < y);
}

static const char *check_overlaps(const void *ctx, const struct vhd *v, struct vhd_map *m)
{
	uint64_t n = bitmap_bytes(v) + v->block;
	if (m->n)
		qsort(m->v, m->n, sizeof *m->v, by_place);
	for (size_t i = 1; i < m->n; i++)
		if (m->v[i].at - m->v[i - 1].at < n)
			return str(ctx, "its blocks %u and %u overlap, at %llu", m->v[i - 1].number,
				   m->v[i].number, (number)m->v[i].at);
	return NULL;
}

const char *vhd_read_table(const void *ctx, const void *table, uint64_t file_size,
			   const struct vhd *v, struct vhd_map *ret)
{
	struct vhd_map m = { .v = talloc_array(ctx, struct vhd_block, v->entries) };
	if (v->table_at + vhd_table_bytes(v) + VHD_FOOTER > file_size)
		return str(ctx,
			   "its table at %llu reaches to the file's end at %llu, where its footer "
			   "is",
			   (number)v->table_at, (number)file_size);
	for (uint32_t i = 0; i < v->entries; i++) {
		int32_t sector = (int32_t)get_be((const char *)table + 4 * (size_t)i, 4);
		struct vhd_block b = { .at = (uint64_t)(uint32_t)sector * 512, .number = i };
		if (sector == NO_BLOCK)
			continue;
		const char *wrong = check_block(ctx, v, file_size, &b);
		if (wrong)
			return wrong;
		m.v[m.n++] = b;
	}
	const char *wrong = check_overlaps(ctx, v, &m);
	if (!wrong)
		*ret = m;
	return wrong;
}

/* ---- the data ---- */

struct reading {
	const struct vhd *vhd;
	struct stream *in;
	struct image_disk *disk;
	unsigned char *bitmap; /* of a block */
	char *piece;           /* IMAGE_PIECE bytes */
};

static bool has_sector(const struct reading *r, uint64_t sector)
{
	return r->bitmap[sector / 8] & 0x80 >> sector % 8;
}

/* What the bitmap does not have is zero, whatever stands there. */
static void clear_absent(struct reading *r, uint64_t first, size_t n)
{
	for (size_t i = 0; i < n / 512; i++)
		if (!has_sector(r, first + i))
			memset(r->piece + 512 * i, 0, 512);
}

static int put_block(struct task *t, struct reading *r, uint32_t block)
{
	uint64_t begin = (uint64_t)block * r->vhd->block, n;
	for (uint64_t done = 0; done < r->vhd->block; done += n) {
		uint64_t left = r->vhd->block - done, at = begin + done;
		n = left < IMAGE_PIECE ? left : IMAGE_PIECE;
		uint64_t wanted = at >= r->vhd->size ? 0 : r->vhd->size - at;
		if (stream_read(t, r->in, r->piece, (size_t)n) < 0)
			return -1;
		clear_absent(r, done / 512, (size_t)n);
		wanted = wanted < n ? wanted : n;
		if (wanted && r->disk->write(t, r->disk, at, r->piece, (size_t)wanted) < 0)
			return -1;
	}
	return 0;
}

static int take_block(struct task *t, struct reading *r, const struct vhd_block *b)
{
	if (stream_skip(t, r->in, b->at - r->in->at) < 0 ||
	    stream_read(t, r->in, r->bitmap, bitmap_bytes(r->vhd)) < 0)
		return -1;
	return put_block(t, r, b->number);
}

/* Blocks of the disk that the image does not hold. */
static int zero_others(struct task *t, const struct reading *r, const struct vhd_map *m)
{
	const struct vhd *v = r->vhd;
	bool *held = talloc_zero_array(t, bool, v->entries + 1);
	for (size_t i = 0; i < m->n; i++)
		held[m->v[i].number] = true;
	for (uint64_t i = 0, n; i * v->block < v->size; i += n) {
		n = 1;
		if (held[i])
			continue;
		while (i + n < v->entries && !held[i + n])
			n++;
		uint64_t at = i * v->block, left = v->size - at;
		if (r->disk->zero(t, r->disk, at, left < n * v->block ? left : n * v->block) < 0)
			return -1;
	}
	talloc_free(held);
	return 0;
}

static int take_fixed(struct task *t, struct reading *r)
{
	uint64_t n;
	for (uint64_t at = 0; at < r->vhd->size; at += n) {
		n = r->vhd->size - at < IMAGE_PIECE ? r->vhd->size - at : IMAGE_PIECE;
		if (stream_read(t, r->in, r->piece, (size_t)n) < 0 ||
		    r->disk->write(t, r->disk, at, r->piece, (size_t)n) < 0)
			return -1;
	}
	return 0;
}

/* The footer is the stream's last 512 bytes.  Other bytes may stand between the last block and it. */
static int take_end(struct task *t, struct reading *r)
{
	unsigned char footer[VHD_FOOTER];
	struct stream *in = r->in;
	if (in->length - in->at < VHD_FOOTER)
		return fail(t, IMPORT_ERROR, "the vhd image has no footer at its end");
	if (stream_skip(t, in, in->length - in->at - VHD_FOOTER) < 0 ||
	    stream_read(t, in, footer, sizeof footer) < 0)
		return -1;
	const char *wrong = vhd_check_end(t, footer, r->vhd);
	return wrong ? fail(t, IMPORT_ERROR, str(t, "the vhd image is refused: %s", wrong)) : 0;
}

int vhd_receive(struct task *t, const struct vhd *v, const struct vhd_map *m, struct stream *in,
		struct image_disk *disk)
{
	struct reading r = {
		.vhd = v, .in = in, .disk = disk, .piece = talloc_array(t, char, IMAGE_PIECE)
	};
	if (!v->dynamic)
		return take_fixed(t, &r);
	r.bitmap = talloc_array(t, unsigned char, bitmap_bytes(v));
	if (zero_others(t, &r, m) < 0)
		return -1;
	for (size_t i = 0; i < m->n; i++)
		if (take_block(t, &r, &m->v[i]) < 0)
			return -1;
	return take_end(t, &r);
}
