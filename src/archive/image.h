// SPDX-License-Identifier: Apache-2.0
/* image.h -- what a disk is to those who write and read images of it: whoever has the disk fills in the
 * functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;

struct image_disk {
	uint64_t size; /* bytes, a multiple of 512 */
	/* What there is at `at`: how many bytes of one kind, at most limit, and whether they may hold
	 * anything but zeros. */
	int (*extent)(struct task *, struct image_disk *, uint64_t at, uint64_t limit,
		      uint64_t *ret_n, bool *ret_data);
	int (*read)(struct task *, struct image_disk *, uint64_t at, void *to, size_t n);
	/* Zeros take no room. */
	int (*write)(struct task *, struct image_disk *, uint64_t at, const void *from, size_t n);
	int (*zero)(struct task *, struct image_disk *, uint64_t at, uint64_t n);
};

enum { IMAGE_PIECE = 2 << 20 }; /* most bytes that are read or written at once */
