// SPDX-License-Identifier: Apache-2.0
/* header.h -- the header of a qcow2 image, read by our own eyes before any tool opens it.
 *
 *      0  magic "QFI\xfb"              40  L1 table offset
 *      4  version (2 or 3)             48  refcount table offset
 *      8  backing file name, offset    56  refcount table clusters
 *     16  backing file name, length    60  number of internal snapshots
 *     20  cluster bits (9..21)         64  snapshot table offset
 *     24  virtual size in bytes        72  incompatible features   (version 3 from here)
 *     32  crypt method                 80  compatible features
 *     36  L1 entries                   88  autoclear features
 *                                      96  refcount order
 *                                     100  header length
 *
 * All big endian.  Behind the header follow extensions: be32 type, be32 length, data padded to 8;
 * type 0 ends them.  e2792aca is the name of the backing format, 44415441 that of an external data file.
 *
 *     51 46 49 fb 00 00 00 03  00 00 00 00 00 00 00 00   no backing file
 *     00 00 00 00 00 00 00 10  00 00 00 00 04 00 00 00   64 KiB clusters, 64 MiB
 *
 * Source: QEMU's docs/interop/qcow2. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEADER_BYTES = 65536 }; /* so much of a file is enough to judge it by */

struct header {
	uint64_t virtual_size;
	uint32_t cluster_bits;
	char backing[1024]; /* name as it stands there, "" for none */
	char backing_format[32];
};

/* Reads the first n bytes of a file.  NULL, or why it is no image that may be opened: not qcow2, damaged, encrypted,
 * with an external data file, with a feature that is not known, or larger than MAX_VIRTUAL. */
const char *header_read(const uint8_t *bytes, size_t n, struct header *ret);

/* Is it one of our own volumes: its backing file none, or "<volume id>.qcow2" in the same
 * folder?  ret_parent (25 bytes) becomes the id, or "". */
bool header_is_volume(const struct header *, char *ret_parent);

#define MAX_VIRTUAL ((uint64_t)64 << 40)
