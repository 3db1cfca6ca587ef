// SPDX-License-Identifier: Apache-2.0
/* image_write.c -- an image while it comes in.
 *
 * Pages go to their places at once, in runs, and so do the devices behind them; what stands before and between pages
 * (QEMU's words about RAM, bitmaps) and at the end (sums, table) when all pages have come.  Of a guest of more than
 * 8 GiB some sums have to go before the devices have come, and with them the place where the stream ends: so they
 * have one behind all that devices may have to say. */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/sync.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"
#include "memory/sums.h"

enum { RUN = 1 << 20, TEXT_MAX = 512, BITS = 64 << 10 /* bytes of a bitmap at a time */ };

struct image_writer {
	struct image m;
	unsigned char *run; /* pages that follow each other, not written yet */
	uint64_t run_at;    /* in the file */
	size_t run_n;       /* bytes */
};

struct image_writer *image_begin(struct task *t, int fd)
{
	struct image_writer *w = talloc_zero(t, struct image_writer);
	w->m.fd = fd;
	w->run = talloc_size(w, RUN);
	return w;
}

/* ---- where things are ---- */

static uint64_t bitmap_bytes(const struct image_block *b)
{
	return (b->size / MIGRATION_PAGE + 63) / 64 * 8;
}

/* Bytes before a block's bitmap that are the block's. */
static uint64_t entry_bytes(const struct image_block *b)
{
	return 1 + strlen(b->name) + 8 + 4 + 8 + 8 + 8;
}

/* Bytes before the first block's entry: QEVM, configuration, RAM's first section. */
static size_t put_opening(const struct image *m, unsigned char to[TEXT_MAX])
{
	static const char capabilities[] = "configuration/capabilities", mapped[] = "mapped-ram";
	unsigned char *p = to;
	uint64_t ram = 0;
	for (size_t i = 0; i < m->nblocks; i++)
		ram += m->blocks[i].size;
#define BE(bytes, value) (put_be(p, bytes, value), p += (bytes))
#define TEXT(text) (memcpy(p, text, strlen(text)), p += strlen(text))
	TEXT("QEVM");
	BE(4, 3);
	BE(1, 0x07);
	BE(4, strlen(m->machine));
	TEXT(m->machine);
	BE(1, 0x05);
	BE(1, strlen(capabilities));
	TEXT(capabilities);
	BE(4, 1);
	BE(4, 1);
	BE(1, strlen(mapped));
	TEXT(mapped);
	BE(1, 0x01);
	BE(4, 1); /* the section's id */
	BE(1, 3);
	TEXT("ram");
	BE(4, 0);
	BE(4, 4);
	BE(8, ram | 0x04);
	return (size_t)(p - to);
}

static size_t put_entry(const struct image_block *b, unsigned char to[TEXT_MAX])
{
	unsigned char *p = to;
	BE(1, strlen(b->name));
	TEXT(b->name);
	BE(8, b->size);
	BE(4, 1);
	BE(8, MIGRATION_PAGE);
	p += 16; /* its places: put_places() */
	return (size_t)(p - to);
}

/* RAM's first section ends, and its last. */
static size_t put_closing(unsigned char to[TEXT_MAX])
{
	unsigned char *p = to;
	BE(8, 0x10);
	BE(1, 0x7e);
	BE(4, 1);
	BE(1, 0x03);
	BE(4, 1);
	BE(8, 0x10);
	BE(1, 0x7e);
	BE(4, 1);
	return (size_t)(p - to);
#undef BE
#undef TEXT
}

static uint64_t align(uint64_t at)
{
	return (at + IMAGE_PAGES_ALIGN - 1) / IMAGE_PAGES_ALIGN * IMAGE_PAGES_ALIGN;
}

/* Where a block's entry begins, and its bitmap. */
static uint64_t entry_at(const struct image *m, size_t i)
{
	unsigned char text[TEXT_MAX];
	return i ? m->blocks[i - 1].pages_at + m->blocks[i - 1].size
		 : IMAGE_STREAM_AT + put_opening(m, text);
}

static uint64_t bitmap_at(const struct image *m, size_t i)
{
	return entry_at(m, i) + entry_bytes(&m->blocks[i]);
}

/* ---- what comes in ---- */

static int too_large(struct task *t, uint64_t bytes)
{
	return fail(t, INTERNAL_ERROR,
		    str(t, "The VM has %s of memory, and a memory image holds %s at most",
			size_str(t, bytes), size_str(t, IMAGE_RAM_MAX)));
}

static int on_begin(struct task *t, void *arg, const char *machine, size_t n,
		    const struct migration_block *blocks)
{
	struct image_writer *w = arg;
	struct image *m = &w->m;
	m->machine = talloc_strdup(w, machine);
	m->nblocks = n;
	m->blocks = talloc_zero_array(w, struct image_block, (unsigned)n);
	for (size_t i = 0; i < n; i++) {
		struct image_block *b = &m->blocks[i];
		b->name = talloc_strdup(w, blocks[i].name);
		b->size = blocks[i].size;
		b->first = m->pages;
		if (b->size > IMAGE_RAM_MAX - m->pages * MIGRATION_PAGE)
			return too_large(t, m->pages * MIGRATION_PAGE + b->size);
		m->pages += b->size / MIGRATION_PAGE;
		b->pages_at = align(bitmap_at(m, i) + bitmap_bytes(b));
	}
	m->sums = sums_new(w, m->fd, m->pages, SUMS_KEPT_WRITING);
	sums_place(m->sums, align(entry_at(m, n) + TEXT_MAX + MIGRATION_STATE_MAX));
	return 0;
}

static int flush_run(struct task *t, struct image_writer *w)
{
	size_t n = w->run_n;
	w->run_n = 0;
	return n ? image_pwrite(t, w->m.fd, w->run, n, w->run_at) : 0;
}

static int no_page(struct task *t, const struct image_block *b, uint64_t offset)
{
	return fail(t, INTERNAL_ERROR,
		    str(t, "The VM's memory has no page at %llu of %s, of %llu bytes",
			(unsigned long long)offset, b ? b->name : "a block that it has not",
			(unsigned long long)(b ? b->size : 0)));
}

int image_put(struct task *t, struct image_writer *w, size_t block, uint64_t offset,
	      const void *page)
{
	const struct image_block *b = block < w->m.nblocks ? &w->m.blocks[block] : NULL;
	uint64_t before;
	if (!b || offset >= b->size || offset % MIGRATION_PAGE)
		return no_page(t, b, offset);
	if (sums_set(t, w->m.sums, b->first + offset / MIGRATION_PAGE, page ? image_sum(page) : 0,
		     &before) < 0)
		return -1;
	w->m.used += page && !before ? MIGRATION_PAGE : 0;
	w->m.used -= !page && before ? MIGRATION_PAGE : 0;
	if (!page)
		return 0; /* nobody reads what is there */
	uint64_t at = b->pages_at + offset;
	if ((w->run_n == RUN || at != w->run_at + w->run_n) && flush_run(t, w) < 0)
		return -1;
	if (!w->run_n)
		w->run_at = at;
	memcpy(w->run + w->run_n, page, MIGRATION_PAGE);
	w->run_n += MIGRATION_PAGE;
	return 0;
}

static int on_page(struct task *t, void *arg, size_t block, uint64_t offset, const void *page)
{
	return image_put(t, arg, block, offset, page);
}

static int on_state(struct task *t, void *arg, const void *bytes, size_t n)
{
	struct image *m = &((struct image_writer *)arg)->m;
	unsigned char text[TEXT_MAX];
	uint64_t at = entry_at(m, m->nblocks); /* behind the last block */
	size_t closing = put_closing(text);
	m->stream_end = at + closing + n;
	return image_pwrite(t, m->fd, text, closing, at) < 0 ||
			       image_pwrite(t, m->fd, bytes, n, at + closing) < 0
		       ? -1
		       : 0;
}

struct migration_sink image_sink(struct image_writer *w)
{
	return (struct migration_sink){ on_begin, on_page, on_state, w };
}

size_t image_block(const struct image_writer *w, const char *name)
{
	size_t i = 0;
	while (i < w->m.nblocks && !streq(w->m.blocks[i].name, name))
		i++;
	return i;
}

/* ---- the end ---- */

/* A piece of a block's bitmap: the one that *page is in, which is not zeros.  Then *page is the first one behind it
 * that is not. */
static int write_bits(struct task *t, struct image_writer *w, size_t i, uint64_t *page)
{
	const struct image_block *b = &w->m.blocks[i];
	unsigned char bits[BITS] = { 0 };
	uint64_t from = *page / 8 / BITS * BITS, left = bitmap_bytes(b) - from;
	size_t n = left < BITS ? left : BITS;
	while (*page < b->size / MIGRATION_PAGE && *page / 8 < from + n) {
		bits[*page / 8 - from] |= (unsigned char)(1 << *page % 8);
		if (image_find(t, &w->m, b, *page + 1, page) < 0)
			return -1;
	}
	return image_pwrite(t, w->m.fd, bits, n, bitmap_at(&w->m, i) + from);
}

/* What is not written is a hole, and reads as zeros. */
static int write_bitmap(struct task *t, struct image_writer *w, size_t i)
{
	const struct image_block *b = &w->m.blocks[i];
	uint64_t page;
	if (image_find(t, &w->m, b, 0, &page) < 0)
		return -1;
	while (page < b->size / MIGRATION_PAGE)
		if (task_check(t) < 0 || write_bits(t, w, i, &page) < 0)
			return -1;
	return 0;
}

static int write_block_entry(struct task *t, struct image_writer *w, size_t i)
{
	const struct image_block *b = &w->m.blocks[i];
	unsigned char text[TEXT_MAX];
	size_t n = put_entry(b, text);
	put_be(text + n - 16, 8, bitmap_at(&w->m, i));
	put_be(text + n - 8, 8, b->pages_at);
	return image_pwrite(t, w->m.fd, text, n, entry_at(&w->m, i)) < 0 ? -1
									 : write_bitmap(t, w, i);
}

static int write_stream(struct task *t, struct image_writer *w)
{
	struct image *m = &w->m;
	unsigned char text[TEXT_MAX];
	size_t n = put_opening(m, text);
	if (image_pwrite(t, m->fd, text, n, IMAGE_STREAM_AT) < 0)
		return -1;
	for (size_t i = 0; i < m->nblocks; i++)
		if (write_block_entry(t, w, i) < 0)
			return -1;
	return 0;
}

static int write_table(struct task *t, struct image_writer *w, json_t *notes,
		       struct image_part *part)
{
	json_t *blocks = json_array();
	for (size_t i = 0; i < w->m.nblocks; i++)
		json_array_append_new(blocks,
				      json_pack("{s:s, s:I, s:I}", "name", w->m.blocks[i].name,
						"size", (json_int_t)w->m.blocks[i].size, "pages at",
						(json_int_t)w->m.blocks[i].pages_at));
	const char *text =
		json_text(w, json_own(w, json_pack("{s:s, s:o, s:O}", "machine", w->m.machine,
						   "blocks", blocks, "notes", notes)));
	part->n = strlen(text);
	if (part->n > IMAGE_TABLE_MAX)
		return fail(t, INTERNAL_ERROR, "too many notes for a memory image");
	part->sum = XXH3_64bits(text, part->n);
	return image_pwrite(t, w->m.fd, text, part->n, part->at);
}

static void put_part(unsigned char *to, const struct image_part *part)
{
	put_be(to, 8, part->at);
	put_be(to + 8, 8, part->n);
	put_be(to + 16, 8, part->sum);
}

static int sync_pages(struct task *t, int fd)
{
	return sync_file(fd, SYNC_MEMORY_IMAGE) < 0 ? task_fail_errno(t, errno, "memory image") : 0;
}

static int write_header(struct task *t, struct image_writer *w, uint64_t stream_sum,
			const struct image_part *sums, const struct image_part *table)
{
	unsigned char header[IMAGE_HEADER] = IMAGE_MAGIC;
	put_be(header + AT_VERSION, 4, IMAGE_VERSION);
	put_be(header + AT_STREAM, 8, w->m.stream_end);
	put_be(header + AT_STREAM + 8, 8, stream_sum);
	put_part(header + AT_SUMS, sums);
	put_part(header + AT_TABLE, table);
	put_be(header + AT_CHECK, 8, XXH3_64bits(header, AT_CHECK));
	return image_pwrite(t, w->m.fd, header, sizeof header, 0);
}

int image_finish(struct task *t, struct image_writer *w, json_t *notes, uint64_t *ret_bytes)
{
	struct image_part sums, table;
	uint64_t stream_sum, sums_bytes;
	if (flush_run(t, w) < 0 || write_stream(t, w) < 0 ||
	    sums_write(t, w->m.sums, w->m.stream_end, &sums, &sums_bytes) < 0)
		return -1;
	table.at = sums.at + sums.n;
	if (write_table(t, w, notes, &table) < 0 || image_sum_stream(t, &w->m, &stream_sum) < 0 ||
	    sync_pages(t, w->m.fd) < 0 || write_header(t, w, stream_sum, &sums, &table) < 0)
		return -1;
	*ret_bytes =
		w->m.used + w->m.stream_end - entry_at(&w->m, w->m.nblocks) + sums_bytes + table.n;
	return 0;
}
