// SPDX-License-Identifier: Apache-2.0
/* blocks.h -- which blocks of a disk an image has to hold: a bit each.
 *
 * With it the length of an image is known, and all of its tables, before the first byte of the disk is read:
 * so an image can be written as a stream.  A disk of 64 TiB in blocks of 64 KiB takes 128 MiB. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;
struct image_disk;
struct stream;

struct blocks {
	uint64_t size; /* of the disk */
	unsigned bits; /* a block has 1 << bits bytes, at most IMAGE_PIECE */
	uint64_t n;    /* blocks of the disk; the last may be cut off */
	uint64_t used; /* those with data */
	unsigned char *map;
};

/* Asks the disk; on t. */
struct blocks *blocks_of(struct task *, struct image_disk *, unsigned bits);
/* A disk of such a size without data, for blocks_add(). */
struct blocks *blocks_new(const void *ctx, uint64_t size, unsigned bits);
void blocks_add(struct blocks *, uint64_t block);

bool blocks_has(const struct blocks *, uint64_t block);
/* How many of the n blocks from first on have data. */
uint64_t blocks_count(const struct blocks *, uint64_t first, uint64_t n);

/* The next run of blocks with data at or behind *first, no longer than IMAGE_PIECE; 0: there is none. */
uint64_t blocks_run(const struct blocks *, uint64_t *first);
/* n blocks of the disk from first on, to `to`; zeros behind the disk's end. */
int blocks_read(struct task *, const struct blocks *, struct image_disk *, uint64_t first,
		uint64_t n, void *to);
