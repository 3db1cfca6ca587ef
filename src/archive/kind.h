// SPDX-License-Identifier: Apache-2.0
/* kind.h -- recognizes by its first bytes a file that people mistake for the raw bytes of a disk:
 * an image in another format, an archive, a compressed file.
 *
 * A guest writes what it likes to the beginning of its disk, so these bytes prove nothing.  They are
 * only a reason to ask somebody who did not name a format, and a hint in an error message.
 *
 * Boot sectors, file systems, discs and LUKS are not here: disks begin with them.  A fixed VHD is not
 * here either: it consists of the disk's bytes, and a footer behind them. */
#pragma once

#include <stddef.h>

enum { KIND_BYTES = 512 }; /* so many bytes from the beginning are enough */

struct kind {
	const char *what;   /* "a qcow2 image" */
	const char *advice; /* what the user has to do with the file first; NULL: format is set */
	const char *format; /* the format= under which the file can be imported; NULL: none */
};

/* NULL: the bytes begin as none of these files do. */
const struct kind *kind_of(const void *bytes, size_t n);
