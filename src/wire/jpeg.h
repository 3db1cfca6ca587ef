// SPDX-License-Identifier: Apache-2.0
/* jpeg.h -- a picture of a screen made small.
 *
 * It comes as PPM, the plainest format there is:
 *
 *     50 36 0a 37 32 30 20 34 30 30 0a 32 35 35 0a     "P6\n720 400\n255\n": width, height, maximum
 *     00 00 00 ...                                     red, green and blue of each pixel, by lines
 *
 * The one who drew it may be a guest that has taken over its QEMU. */
#pragma once

#include <stddef.h>

struct task;

enum {
	JPEG_SIDE_LIMIT = 16384,   /* pixels */
	JPEG_PPM_LIMIT = 64 << 20, /* bytes: 5461 x 4096 pixels */
};

/* The PPM in the file, which may hold more behind it, as a JPEG on t.  INTERNAL_ERROR when it is
 * none, or is larger than the limits. */
int jpeg_of_ppm(struct task *, int file, const void **ret, size_t *ret_n);
