// SPDX-License-Identifier: Apache-2.0
/* image_file.h -- what the writer and the reader of an image have in common; image.h draws the file. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory/image.h"

#define IMAGE_MAGIC "StillRAM"

enum {
	IMAGE_VERSION = 1,
	IMAGE_HEADER = 4096,
	IMAGE_PAGES_ALIGN = 1 << 20, /* QEMU's: file-backed migration wants it */
	AT_VERSION = 8,
	AT_STREAM = 16,
	AT_SUMS = 32,
	AT_TABLE = 56,
	AT_CHECK = 4088
};

/* A part of the file with a checksum. */
struct image_part {
	uint64_t at, n, sum;
};

/* Whole reads and writes at a place. */
int image_pread(struct task *, int fd, void *to, size_t n, uint64_t at);
int image_pwrite(struct task *, int fd, const void *from, size_t n, uint64_t at);

/* XXH3 of a page that is not zeros, which is never 0. */
uint64_t image_sum(const void *page);

/* The first page from `page` on of a block that is not zeros; the number of its pages: there is none. */
int image_find(struct task *, const struct image *, const struct image_block *, uint64_t page,
	       uint64_t *ret);

/* -1: what is wrong with the image, for its user. */
int image_damaged(struct task *, const char *what);

/* XXH3 of the stream without its blocks' pages, as it is in the file. */
int image_sum_stream(struct task *, const struct image *, uint64_t *ret);
