// SPDX-License-Identifier: Apache-2.0
/* vhd.h -- VHD images: a fixed one is the disk and a footer; a dynamic one holds the blocks that have data.
 *
 *     fixed      the disk | footer
 *     dynamic    footer | header | table | block, block, ... | footer
 *
 * The parts of a dynamic one are where the parts before say; only the footer at the end, and its copy
 * at the beginning, have a fixed place.  All integers are big-endian.
 *
 *     footer, 512 bytes                              header, 1024 bytes
 *       0   8  "conectix"                              0   8  "cxsparse"
 *       8   4  features, 2                             8   8  ones
 *      12   4  version, 0x00010000                    16   8  where the table is
 *      16   8  where the header is; fixed: ones       24   4  version, 0x00010000
 *      24   4  seconds since 2000                     28   4  entries of the table
 *      28   4  creator                                32   4  bytes of a block, 2 MiB as a rule
 *      32   4  its version                            36   4  checksum
 *      36   4  its system                             40  16  the parent's uuid
 *      40   8  size of the disk when it was new       56   4  its time
 *      48   8  size of the disk now                   64 512  its name
 *      56   4  geometry: cylinders 2, heads, sectors 576 192  eight places of its file, 24 bytes each:
 *      60   4  2 fixed, 3 dynamic, 4 differencing             platform (0: none), space, length, 0,
 *      64   4  checksum                                       where the name is (8)
 *      68  16  uuid
 *      84   1  saved state
 *
 * A checksum is the complement of the sum of all bytes, those of the checksum left out.  The table has 4 bytes
 * for each block of the disk: the sector where it begins, or ones.  A block is a bitmap, rounded up to 512
 * bytes, with a bit for each sector, the highest first, and the data; where the bit is 0 the sector is zero.
 *
 * Programs do not agree on which size is the disk's: some take the geometry's.  What writes "tap\0" as its
 * creator, as XenServer does and we do, means the size at 48, and so do we when we read, whoever wrote.
 *
 * A disk of 4 MiB whose second block has data, all sectors of it:
 *
 *     0000  63 6f 6e 65 63 74 69 78  00 00 00 02 00 01 00 00  00 00 00 00 00 00 02 00 ...
 *     0200  63 78 73 70 61 72 73 65  ff ff ff ff ff ff ff ff  00 00 00 00 00 00 06 00
 *     0218  00 01 00 00 00 00 00 02  00 20 00 00 ...
 *     0600  ff ff ff ff 00 00 00 04  ff ...                  the second begins at 0x800
 *     0800  ff ff ff ff ...                                  its bitmap, then 2 MiB
 *   200a00  63 6f 6e 65 ...                                  the footer again */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;
struct blocks;
struct image_disk;
struct stream;

enum {
	VHD_FOOTER = 512,
	VHD_HEADER = 1024,
	VHD_BITS = 21,            /* of the blocks that we write */
	VHD_TABLE_MAX = 16 << 20, /* bytes: 2040 GiB in blocks of 512 KiB */
};
#define VHD_SIZE_MAX (UINT64_C(2040) << 30) /* largest disk, bytes */

/* ---- writing: a dynamic one ---- */

uint64_t vhd_length(const struct blocks *);
int vhd_write(struct task *, const struct blocks *, struct image_disk *, struct stream *);

/* ---- reading ---- */

struct vhd {
	bool dynamic;
	uint64_t size; /* of the disk */
	unsigned char uuid[16];
	/* of a dynamic one */
	uint64_t header_at, table_at;
	uint32_t entries;
	uint32_t block; /* bytes */
};

/* A block of the disk, and where it is in the file. */
struct vhd_block {
	uint64_t at;
	uint32_t number;
};
struct vhd_map {
	size_t n;
	struct vhd_block *v; /* in the order of the file */
};

/* These are given the bytes, pure.  They return NULL and fill in what they say of the image; or what is wrong
 * with it, on ctx, and ret is as it was. */
const char *vhd_read_footer(const void *ctx, const void *footer, struct vhd *ret);
const char *vhd_read_header(const void *ctx, const void *header, struct vhd *ret);
/* Compares the footer at the end of a dynamic image with its copy at the beginning.  NULL: both are
 * sound, and of the same image. */
const char *vhd_check_end(const void *ctx, const void *footer, const struct vhd *copy);
/* file_size: of the whole image.  Blocks lie in the file, in front of its footer, over nothing else.
 * The map is on ctx. */
const char *vhd_read_table(const void *ctx, const void *table, uint64_t file_size,
			   const struct vhd *, struct vhd_map *ret);
uint64_t vhd_table_bytes(const struct vhd *); /* rounded up to the sector */

/* The whole disk from the stream, which stands in front of the first block, or of a fixed one's first
 * byte; all of it, zeros too, goes to the beginning of disk.  The footer at the end of a dynamic image
 * is checked when it comes, behind the last block: IMPORT_ERROR when it does not fit the beginning. */
int vhd_receive(struct task *, const struct vhd *, const struct vhd_map *, struct stream *,
		struct image_disk *);
