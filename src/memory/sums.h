// SPDX-License-Identifier: Apache-2.0
/* sums.h -- the checksums of an image's pages, however many there are: 8 bytes a page are 2 GiB for 1 TiB.
 *
 *     piece   512 sums, big endian as in the file.  The pieces used last are kept in memory; others are in the file,
 *             where the image has its sums, or nowhere: pages of zeros have no sum
 *     check   XXH3 of a piece as it is in the file, kept in memory; 0: nothing of it is there, and its pages are
 *             zeros
 *
 * A piece that comes back from the file is compared with its check, so that no sum is believed which the disk has
 * changed meanwhile.  A struct belongs to one thread at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct image_part;
struct sums;
struct task;

enum {
	SUMS_PIECE = 512,                                  /* sums */
	SUMS_KEPT_WRITING = (16 << 20) / (SUMS_PIECE * 8), /* pieces in memory: those of 8 GiB */
	SUMS_KEPT_READING = 64
};

/* Of so many pages, all of them zeros. */
struct sums *sums_new(const void *ctx, int fd, uint64_t pages, size_t kept);
int sums_get(struct task *, struct sums *, uint64_t page, uint64_t *ret);
int sums_set(struct task *, struct sums *, uint64_t page, uint64_t sum, uint64_t *ret_before);
/* The first page from `page` on that is not zeros; `end`: there is none before it. */
int sums_find(struct task *, struct sums *, uint64_t page, uint64_t end, uint64_t *ret);

/* ---- in a file that is being written ---- */

/* Where those go that memory has no room for.  Before the first is set. */
void sums_place(struct sums *, uint64_t at);
/* All of them to the file: to their place where some are already, else to `at`.  Of its bytes those that are written
 * are counted: a piece whose pages are all zeros takes no room. */
int sums_write(struct task *, struct sums *, uint64_t at, struct image_part *ret,
	       uint64_t *ret_bytes);

/* ---- in a file that is whole ---- */

/* Reads through all of them, and compares them with the checksum of the whole.  ret_pages: those that are not zeros. */
int sums_read(struct task *, struct sums *, const struct image_part *, uint64_t *ret_pages);
