// SPDX-License-Identifier: Apache-2.0
#include "archive/qcow2_stream.h"

#include <string.h>

#include "archive/blocks.h"
#include "base/bytes.h"
#include "archive/image.h"
#include "base/stream.h"
#include "base/task.h"

enum {
	CLUSTER = 1 << QCOW2_STREAM_BITS,
	ENTRIES = CLUSTER / 8,  /* of a table, in a cluster */
	COUNTERS = CLUSTER / 2, /* of a refcount block */
	HEADER = 104,
};
#define ONLY_ONE (UINT64_C(1) << 63)

/* Numbers of clusters: where each part begins. */
struct places {
	uint64_t tables; /* of L2, in use or not */
	uint64_t refblocks, l1, l2, data, end;
};

static uint64_t parts(uint64_t n, uint64_t size)
{
	return (n + size - 1) / size;
}

static uint64_t used_tables(const struct blocks *b, uint64_t tables)
{
	uint64_t n = 0;
	for (uint64_t i = 0; i < tables; i++)
		n += blocks_count(b, i * ENTRIES, ENTRIES) > 0;
	return n;
}

/* Refcount blocks count themselves, too: their number grows until it is enough. */
static struct places place(const struct blocks *b)
{
	uint64_t tables = parts(b->n, ENTRIES), l1 = parts(tables, ENTRIES);
	uint64_t l2 = used_tables(b, tables), others = 1 + l1 + l2 + b->used;
	uint64_t blocks = 1, needed;
	for (;;) {
		needed = parts(others + blocks + parts(blocks, ENTRIES), COUNTERS);
		if (needed <= blocks)
			break;
		blocks = needed;
	}
	struct places p = { .tables = tables, .refblocks = 1 + parts(blocks, ENTRIES) };
	p.l1 = p.refblocks + blocks;
	p.l2 = p.l1 + l1;
	p.data = p.l2 + l2;
	p.end = p.data + b->used;
	return p;
}

uint64_t qcow2_stream_length(const struct blocks *b)
{
	return place(b).end * CLUSTER;
}

/* ---- the parts ---- */

static void put_header(unsigned char *c, const struct blocks *b, const struct places *p)
{
	memset(c, 0, CLUSTER);
	put_be(c, 4, 0x514649fb);
	put_be(c + 4, 4, 3);
	put_be(c + 20, 4, QCOW2_STREAM_BITS);
	put_be(c + 24, 8, b->size);
	put_be(c + 36, 4, p->tables);
	put_be(c + 40, 8, p->l1 * CLUSTER);
	put_be(c + 48, 8, CLUSTER);
	put_be(c + 56, 4, p->refblocks - 1);
	put_be(c + 96, 4, 4);
	put_be(c + 100, 4, HEADER);
}

static int write_header(struct task *t, const struct blocks *b, const struct places *p,
			unsigned char *c, struct stream *out)
{
	put_header(c, b, p);
	return stream_write(t, out, c, CLUSTER);
}

/* The table, then what it points to: all clusters up to the end are in use. */
static int write_refcounts(struct task *t, const struct places *p, unsigned char *c,
			   struct stream *out)
{
	uint64_t blocks = p->l1 - p->refblocks;
	for (uint64_t first = 0; first < (p->refblocks - 1) * ENTRIES; first += ENTRIES) {
		for (uint64_t i = 0; i < ENTRIES; i++)
			put_be(c + 8 * i, 8,
			       first + i < blocks ? (p->refblocks + first + i) * CLUSTER : 0);
		if (stream_write(t, out, c, CLUSTER) < 0)
			return -1;
	}
	for (uint64_t first = 0; first < blocks * COUNTERS; first += COUNTERS) {
		for (uint64_t i = 0; i < COUNTERS; i++)
			put_be(c + 2 * i, 2, first + i < p->end);
		if (stream_write(t, out, c, CLUSTER) < 0)
			return -1;
	}
	return 0;
}

static int write_l1(struct task *t, const struct blocks *b, const struct places *p,
		    unsigned char *c, struct stream *out)
{
	uint64_t l2 = p->l2;
	for (uint64_t first = 0; first < p->tables; first += ENTRIES) {
		memset(c, 0, CLUSTER);
		for (uint64_t i = 0; i < ENTRIES && first + i < p->tables; i++)
			if (blocks_count(b, (first + i) * ENTRIES, ENTRIES))
				put_be(c + 8 * i, 8, ONLY_ONE | l2++ * CLUSTER);
		if (stream_write(t, out, c, CLUSTER) < 0)
			return -1;
	}
	return 0;
}

static int write_l2(struct task *t, const struct blocks *b, const struct places *p,
		    unsigned char *c, struct stream *out)
{
	uint64_t data = p->data;
	for (uint64_t first = 0; first < b->n; first += ENTRIES) {
		if (!blocks_count(b, first, ENTRIES))
			continue;
		memset(c, 0, CLUSTER);
		for (uint64_t i = 0; i < ENTRIES && first + i < b->n; i++)
			if (blocks_has(b, first + i))
				put_be(c + 8 * i, 8, ONLY_ONE | data++ * CLUSTER);
		if (stream_write(t, out, c, CLUSTER) < 0)
			return -1;
	}
	return 0;
}

static int write_data(struct task *t, const struct blocks *b, struct image_disk *disk,
		      struct stream *out)
{
	char *piece = talloc_array(t, char, IMAGE_PIECE);
	for (uint64_t i = 0, n; (n = blocks_run(b, &i)); i += n)
		if (blocks_read(t, b, disk, i, n, piece) < 0 ||
		    stream_write(t, out, piece, (size_t)n * CLUSTER) < 0)
			return -1;
	talloc_free(piece);
	return 0;
}

int qcow2_stream_write(struct task *t, const struct blocks *b, struct image_disk *disk,
		       struct stream *out)
{
	struct places p = place(b);
	unsigned char *c = talloc_array(t, unsigned char, CLUSTER);
	if (write_header(t, b, &p, c, out) < 0 || write_refcounts(t, &p, c, out) < 0 ||
	    write_l1(t, b, &p, c, out) < 0 || write_l2(t, b, &p, c, out) < 0)
		return -1;
	talloc_free(c);
	return write_data(t, b, disk, out);
}
