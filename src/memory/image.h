// SPDX-License-Identifier: Apache-2.0
/* image.h -- a VM's memory in a file: written while it comes in, loaded by QEMU, read by page.
 *
 * All numbers are big endian unless said otherwise.  The file is sparse: pages of zeros take no room.
 *
 *     0         header
 *     4096      QEMU's migration stream (migration.h draws it), in the form that QEMU calls mapped-ram: QEMU
 *               reads the file itself, in several threads at once, and a page's place is told by its
 *               address alone.  Each block of RAM in the first section is followed by
 *                   be32 1  be64 page size  be64 bitmap at  be64 pages at
 *                   bitmap: a bit for each page that is not zeros, in little endian words of 64
 *                   pages, at a multiple of 1 MiB, as long as the block
 *               "at" counts from the beginning of the file (QEMU: docs/devel/migration/mapped-ram.rst)
 *     sums at   XXH3 of each page, be64, block after block; 0: the page is zeros.  Where all are 0 may be a
 *               hole.  Behind the stream, at once or with a hole before them
 *     table at  JSON: {"machine": type, "blocks": [{"name", "size", "pages at"} ...], "notes": the caller's}
 *
 *     header    0    "StillRAM"  be32 version: 1  be32 0
 *               16   be64 end of the stream  be64 XXH3 of the stream without its blocks' pages
 *               32   be64 sums at  be64 bytes  be64 XXH3
 *               56   be64 table at  be64 bytes  be64 XXH3
 *               80   24 bytes for the id of an image whose pages these are shared with; version 1: zeros
 *               4088 be64 XXH3 of all before
 *
 * Nothing that is kept in memory here grows with the pages, but 4 MiB for 1 TiB of them (sums.h); what grows
 * with a block's size in the file are its bitmap, 32 MiB for 1 TiB, and its sums.
 *
 * The header is written when all else is durable: a file that was not finished is no image.  It holds what the
 * guest had in memory, its secrets too: 0600, and for nobody else. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "memory/migration.h"

struct task;

enum { IMAGE_STREAM_AT = 4096, IMAGE_TABLE_MAX = 1 << 20 };
/* Bytes of RAM, all blocks together.  More is refused before anything is made for it. */
#define IMAGE_RAM_MAX (UINT64_C(32) << 40)

struct sums;

struct image_block {
	const char *name;
	uint64_t size;     /* bytes */
	uint64_t pages_at; /* in the file */
	uint64_t first;    /* its first page, of those of all blocks */
};

struct image {
	int fd; /* stays the caller's */
	const char *machine;
	size_t nblocks;
	struct image_block *blocks;
	uint64_t pages; /* of all blocks */
	struct sums *sums;
	uint64_t stream_end; /* in the file */
	uint64_t used;       /* bytes of pages that are not zeros */
	json_t *notes;
};

/* ---- writing ---- */

struct image_writer;

/* An image begins in an empty file that is open for reading and writing.  It is written by what
 * migration_read() calls, on t. */
struct image_writer *image_begin(struct task *t, int fd);
struct migration_sink image_sink(struct image_writer *);
/* Another content for a page that has come, or has not.  INTERNAL_ERROR: there is no such page. */
int image_put(struct task *, struct image_writer *, size_t block, uint64_t offset,
	      const void *page);
/* The block by that name, or the number of blocks. */
size_t image_block(const struct image_writer *, const char *name);
/* All has come.  Durable but for the header: that and the file's folder are the caller's to sync.  ret_bytes: what
 * the file holds. */
int image_finish(struct task *, struct image_writer *, json_t *notes, uint64_t *ret_bytes);

/* ---- reading ---- */

/* All but the pages is read, and verified.  On t.  INTERNAL_ERROR says what is wrong with it. */
struct image *image_open(struct task *t, int fd);
/* Is each page what was written?  Progress goes to the task, which may be cancelled. */
int image_verify(struct task *, const struct image *);
/* One page, verified. */
int image_page(struct task *, const struct image *, size_t block, uint64_t offset,
	       unsigned char page[MIGRATION_PAGE]);
