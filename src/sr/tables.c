// SPDX-License-Identifier: Apache-2.0
/* tables.c -- do all parts of a qcow2 image lie in its file?
 *
 * QEMU reads zeros behind the end of a file, so to QEMU an image that was cut off looks like a whole
 * one.  Here an image is whole when the file has each byte that is needed to read the disk.  Bytes that
 * no reader needs may be missing: table entries behind the disk's end, the rest of a cluster behind the
 * disk's end, 32nds of a cluster that were never written.
 *
 * A hostile image must not keep us busy.  An L2 table that several entries of L1 name would be read for
 * each of them, so it is refused; an L2 table that is a hole in the file is not read.  Each cluster of
 * the file that an entry names is marked by a bit; the bits are allocated in pages, when the first bit of
 * a page is set. */
#include "sr/header.h"

#include <errno.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"

typedef unsigned long long number;

enum {
	PIECE = 64 << 10,    /* of L1 and refcount tables */
	PAGE = 4096,         /* bytes of marks, for PAGE * 8 clusters */
	PAGES_MAX = 8 << 20, /* no image needs a file with more */
	SECTOR = 512,
	PARTS = 32, /* of a cluster, in extended tables */
};
#define PLACE UINT64_C(0x00fffffffffffe00)
#define ALONE (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)
#define ZEROS UINT64_C(1)
#define UNUSED_L1 UINT64_C(0x7f000000000001ff)
#define UNUSED_L2 UINT64_C(0x3f000000000001fe)
#define UNUSED_REFCOUNTS UINT64_C(0x00000000000001ff)

/* Clusters of the file: a bit each. */
struct marks {
	unsigned char **page;
};

struct walk {
	struct task *t;
	int fd;
	uint64_t file_size, cluster;
	const struct header *h;
	bool apart;
	unsigned char *table; /* room for one of L2 */
	uint64_t pages;
	struct marks own;    /* nothing else may refer to these clusters */
	struct marks shared; /* other entries may refer to them, too */
	const char *wrong;
	uint64_t unsure, unsure_at; /* on the disk, and in the file */
};

/* Ends the walk: it has found something wrong, which is no failure of the walk itself. */
static int lie(struct walk *w, const char *what)
{
	w->wrong = what;
	return -1;
}

static int cut_off(struct walk *w, const char *what, uint64_t at, uint64_t n)
{
	return lie(w, str(w->t,
			  "it is cut off, or damaged: %s is said to be at %llu, %llu bytes, "
			  "and the file ends at %llu",
			  what, (number)at, (number)n, (number)w->file_size));
}

static bool is_in_file(const struct walk *w, uint64_t at, uint64_t n)
{
	return n <= w->file_size && at <= w->file_size - n;
}

/* ---- reading ---- */

static bool is_hole(int fd, uint64_t at, uint64_t n)
{
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);
	return data < 0 ? errno == ENXIO : (uint64_t)data >= at + n;
}

/* Reads n bytes, which lie in the file.  Returns 1 when all of them are zeros. */
static int get(struct walk *w, uint64_t at, size_t n, unsigned char *to)
{
	if (task_check(w->t) < 0)
		return -1;
	if (is_hole(w->fd, at, n))
		return 1;
	for (size_t done = 0; done < n;) {
		ssize_t got = pread(w->fd, to + done, n - done, (off_t)(at + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return task_fail_errno(w->t, got < 0 ? errno : EIO, "the image");
		done += (size_t)got;
	}
	return is_zero(to, n);
}

/* Calls each() for the entries of a table of n entries that are not 0.  The table is read in pieces. */
static int each_entry(struct walk *w, uint64_t at, uint64_t n,
		      int (*each)(struct walk *, uint64_t i, uint64_t entry))
{
	unsigned char *piece = talloc_array(w->t, unsigned char, PIECE);
	int result = 0;
	for (uint64_t first = 0; result >= 0 && first < n; first += PIECE / 8) {
		uint64_t part = n - first < PIECE / 8 ? n - first : PIECE / 8;
		result = get(w, at + 8 * first, (size_t)(8 * part), piece);
		for (uint64_t i = 0; result == 0 && i < part; i++) {
			uint64_t entry = get_be(piece + 8 * i, 8);
			result = entry ? each(w, first + i, entry) : 0;
		}
	}
	talloc_free(piece);
	return result < 0 ? -1 : 0;
}

/* ---- marks ---- */

static bool is_marked(const struct marks *m, uint64_t cluster)
{
	const unsigned char *page = m->page[cluster / (PAGE * 8)];
	return page && page[cluster / 8 % PAGE] >> cluster % 8 & 1;
}

static void mark(struct walk *w, struct marks *m, uint64_t cluster)
{
	unsigned char **page = &m->page[cluster / (PAGE * 8)];
	if (!*page)
		*page = talloc_zero_array(w->t, unsigned char, PAGE);
	(*page)[cluster / 8 % PAGE] |= (unsigned char)(1 << cluster % 8);
}

/* An entry refers to these n bytes, which lie in the file.  alone: it says that nothing else does. */
static int claim(struct walk *w, uint64_t at, uint64_t n, bool alone)
{
	uint64_t end = (at + n - 1) / w->cluster;
	for (uint64_t c = at / w->cluster; c <= end; c++) {
		if (is_marked(&w->own, c) || (alone && is_marked(&w->shared, c)))
			return lie(w, str(w->t, "two of its parts are said to be at %llu",
					  (number)(c * w->cluster)));
		mark(w, alone ? &w->own : &w->shared, c);
	}
	return 0;
}

static int marks_begin(struct walk *w)
{
	w->pages = w->file_size / w->cluster / (PAGE * 8) + 1;
	if (w->pages > PAGES_MAX)
		return lie(w, str(w->t, "its file of %llu bytes is larger than any image's",
				  (number)w->file_size));
	w->own.page = talloc_zero_array(w->t, unsigned char *, w->pages);
	w->shared.page = talloc_zero_array(w->t, unsigned char *, w->pages);
	return 0;
}

static void marks_end(struct walk *w)
{
	for (uint64_t i = 0; w->own.page && i < w->pages; i++) {
		talloc_free(w->own.page[i]);
		talloc_free(w->shared.page[i]);
	}
	talloc_free(w->own.page);
	talloc_free(w->shared.page);
}

/* ---- what is said of a cluster of the disk ---- */

static int odd_entry(struct walk *w, const char *table, uint64_t entry)
{
	return lie(w, str(w->t, "its %s has an entry that cannot be, 0x%016llx", table,
			  (number)entry));
}

/* The entry tells the last sector of compressed data, and not where in that sector they end.  A program
 * that writes them need not fill the sector. */
static int compressed(struct walk *w, uint64_t guest, uint64_t entry)
{
	unsigned bits = 62 - (w->h->cluster_bits - 8);
	uint64_t at = entry & ((UINT64_C(1) << bits) - 1);
	uint64_t sectors = ((entry & (COMPRESSED - 1)) >> bits) + 1;
	uint64_t end = at / SECTOR * SECTOR + sectors * SECTOR;
	if (at >= w->file_size || end >= w->file_size + SECTOR)
		return cut_off(w, str(w->t, "what the disk has at %llu", (number)guest), at,
			       end - at);
	if (end > w->file_size && (w->unsure == NOWHERE || at > w->unsure_at)) {
		w->unsure = guest;
		w->unsure_at = at;
	}
	end = end < w->file_size ? end : w->file_size;
	return w->apart ? claim(w, at, end - at, false) : 0;
}

/* How many bytes from the beginning of a cluster, by the map of an extended entry, end with the last 32nd
 * that has data.  -1: by the map some 32nd has data and is zeros, too. */
static int64_t written(const struct walk *w, uint64_t map)
{
	uint32_t data = (uint32_t)map, zeros = (uint32_t)(map >> 32);
	int last = data ? 32 - __builtin_clz(data) : 0;
	return data & zeros ? -1 : (int64_t)(w->cluster / PARTS) * last;
}

static int cluster_entry(struct walk *w, uint64_t guest, uint64_t entry, uint64_t map)
{
	uint64_t at = entry & PLACE, left = w->h->size - guest;
	uint64_t needed = left < w->cluster ? left : w->cluster;
	if (entry & COMPRESSED)
		return compressed(w, guest, entry);
	bool reads_zeros = entry & ZEROS;
	if ((entry & UNUSED_L2) || at % w->cluster ||
	    (reads_zeros && (w->h->version < 3 || w->h->extended)))
		return odd_entry(w, "L2 table", entry);
	if (w->h->extended) {
		int64_t n = written(w, map);
		if (n < 0 || (n && !at))
			return odd_entry(w, "map of a cluster's parts", map);
		needed = (uint64_t)n < needed ? (uint64_t)n : needed;
	}
	if (!at || reads_zeros || !needed)
		return 0;
	if (!is_in_file(w, at, needed))
		return cut_off(w, str(w->t, "what the disk has at %llu", (number)guest), at,
			       needed);
	return w->apart ? claim(w, at, 1, entry & ALONE) : 0;
}

/* ---- the tables ---- */

static int l2_table(struct walk *w, uint64_t i, uint64_t entry)
{
	size_t each = w->h->extended ? 16 : 8;
	uint64_t at = entry & PLACE, entries = w->cluster / each, guest = i * entries * w->cluster;
	uint64_t left = (w->h->size - guest + w->cluster - 1) / w->cluster;
	size_t n = (size_t)(left < entries ? left : entries) * each;
	if ((entry & UNUSED_L1) || at % w->cluster)
		return odd_entry(w, "L1 table", entry);
	if (!at)
		return 0;
	if (!is_in_file(w, at, n))
		return cut_off(w, "an L2 table", at, n);
	if (claim(w, at, 1, true) < 0)
		return -1;
	int result = get(w, at, n, w->table);
	for (size_t k = 0; result == 0 && k < n; k += each) {
		uint64_t e = get_be(w->table + k, 8), map = 0;
		if (each == 16)
			map = get_be(w->table + k + 8, 8);
		if (e || map)
			result = cluster_entry(w, guest + k / each * w->cluster, e, map);
	}
	return result < 0 ? -1 : 0;
}

static int refcount_block(struct walk *w, uint64_t i, uint64_t entry)
{
	uint64_t at = entry & ~UNUSED_REFCOUNTS;
	(void)i;
	if ((entry & UNUSED_REFCOUNTS) || at % w->cluster)
		return odd_entry(w, "refcount table", entry);
	if (!is_in_file(w, at, w->cluster))
		return cut_off(w, "a refcount block", at, w->cluster);
	return claim(w, at, w->cluster, true);
}

static int walk(struct walk *w)
{
	const struct header *h = w->h;
	uint64_t l1 = (uint64_t)h->l1_entries * 8;
	uint64_t refcounts = (uint64_t)h->reftable_clusters << h->cluster_bits;
	if (marks_begin(w) < 0 || claim(w, 0, 1, true) < 0 || claim(w, h->l1_at, l1, true) < 0 ||
	    claim(w, h->reftable_at, refcounts, true) < 0 ||
	    each_entry(w, h->reftable_at, refcounts / 8, refcount_block) < 0)
		return -1;
	return each_entry(w, h->l1_at, h->l1_entries, l2_table);
}

int tables_walk(struct task *t, int fd, uint64_t file_size, const struct header *h, bool apart,
		struct tables *ret)
{
	struct walk w = {
		.t = t,
		.fd = fd,
		.file_size = file_size,
		.cluster = UINT64_C(1) << h->cluster_bits,
		.h = h,
		.apart = apart,
		.table = talloc_array(t, unsigned char, 1 << h->cluster_bits),
		.unsure = NOWHERE,
	};
	int result = walk(&w);
	marks_end(&w);
	talloc_free(w.table);
	*ret = (struct tables){ .wrong = w.wrong, .unsure = w.unsure };
	return w.wrong ? 0 : result;
}
