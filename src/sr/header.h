// SPDX-License-Identifier: Apache-2.0
/* header.h -- reads the header and walks through the tables of a qcow2 image that nobody vouches for.
 *
 * QEMU's tools do what an image says: open the file that it names as its backing, connect to the
 * server it names as its data.  So no tool gets an image before its header was read here and
 * found to name nothing, or a volume of ours.  Pure functions over bytes, but for tables_walk(): no
 * file is touched.
 *
 * All integers are big-endian.  Version 2 ends at 72; version 3 says its own length at 100.
 *
 *     offset  bytes
 *        0      4   "QFI\xfb"
 *        4      4   version, 2 or 3
 *        8      8   where the backing file's name starts; 0: it has none
 *       16      4   length of that name, at most 1023, no NUL behind it
 *       20      4   cluster_bits: a cluster has 1 << cluster_bits bytes, 9..21
 *       24      8   size of the disk in bytes
 *       32      4   encryption: 0 none, 1 AES, 2 LUKS
 *       36      4   entries in the L1 table, 8 bytes each
 *       40      8   where the L1 table starts
 *       48      8   where the refcount table starts
 *       56      4   clusters in the refcount table
 *       60      4   number of internal snapshots
 *       64      8   where their table starts
 *    -- version 3 --
 *       72      8   features that a reader must know: 0x01 was not closed, 0x02 corrupt, 0x04 the
 *                   data is in another file, 0x08 compression other than zlib, 0x10 extended L2
 *       80      8   features that a writer must know: 0x01 lazy refcounts
 *       88      8   features that a writer may forget: 0x01 bitmaps, 0x02 the data file is raw
 *       96      4   refcount_order: a refcount has 1 << refcount_order bits, at most 6
 *      100      4   length of the header, a multiple of 8, 104 or more
 *      104      1   compression: 0 zlib, 1 zstd; 7 bytes of zeros behind it
 *
 * Behind the header come extensions: type, length, that many bytes, padding to 8.  Type 0 or the
 * backing file's name ends them:
 *
 *     0xe2792aca  format of the backing file      0x44415441  name of the data file
 *     0x6803f857  names of the features           0x0537be77  where the encryption's header is
 *     0x23852875  where the bitmaps are           others are stepped over
 *
 * A layer of 1 GiB over the volume aaaaaaaaaaaaaaaaaaaaaaaa, whose name is at 0x210:
 *
 *     000  51 46 49 fb  00 00 00 03  00 00 00 00  00 00 02 10
 *     010  00 00 00 1e  00 00 00 10  00 00 00 00  40 00 00 00
 *     020  00 00 00 00  00 00 00 02  00 00 00 00  00 03 00 00
 *     030  00 00 00 00  00 01 00 00  00 00 00 01  00 00 00 00
 *     040  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00
 *     050  00 00 00 00  00 00 00 00  00 00 00 00  00 00 00 00
 *     060  00 00 00 04  00 00 00 70  00 00 00 00  00 00 00 00
 *     070  e2 79 2a ca  00 00 00 05  71 63 6f 77  32 00 00 00   format: "qcow2"
 *     080  68 03 f8 57  00 00 01 80  ...                        names of the features
 *     208  00 00 00 00  00 00 00 00                             the end of the extensions
 *     210  61 61 61 61  ... 2e 71 63 6f 77 32                   "aaaa....qcow2" */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;

enum {
	HEADER_BYTES = 4096,     /* all of header, extensions and name must be in these; QEMU's
	                            own take less than 700 */
	HEADER_NAME = 1023,      /* longest name of a backing file */
	HEADER_FORMAT = 15,      /* longest name of a format */
	HEADER_SNAPSHOTS = 1024, /* most internal snapshots */
};
#define HEADER_SIZE_MAX (UINT64_C(64) << 40) /* largest disk, bytes */

struct header {
	unsigned version;
	uint64_t size; /* bytes of the disk */
	unsigned cluster_bits;
	bool dirty;                  /* was not closed; QEMU repairs it */
	bool extended;               /* entries of L2 tables have 16 bytes */
	unsigned snapshots;          /* internal ones */
	uint64_t l1_at, reftable_at; /* the tables, which lie in the file */
	uint32_t l1_entries;         /* that the disk needs; there may be more */
	uint32_t reftable_clusters;
	char backing[HEADER_NAME + 1];          /* as it stands there; "" none */
	char backing_format[HEADER_FORMAT + 1]; /* "" not said */
};

/* Reads the first n bytes of an image whose file has file_size bytes; n is HEADER_BYTES, or less
 * for a shorter file.  Returns NULL and fills *ret when the header is sound and asks for nothing
 * that we do not know; else what is wrong, and *ret is as it was.  Where the tables lie is judged,
 * what is in them is not. */
const char *header_read(const void *bytes, size_t n, uint64_t file_size, struct header *ret);

/* What stands in a header that is refused, for the message, on ctx: "version 3, disk of 1073741824 bytes, ...". */
char *header_values(const void *ctx, const void *bytes, size_t n);

/* NULL when the header can be one of a volume in an SR, else what speaks against it.  The parent's
 * id, or "", goes to ret_parent, which has room for 25 bytes. */
const char *header_ours(const struct header *, char *ret_parent);

/* NULL when the image names no other file, so that a tool may read it; else what it names. */
const char *header_alone(const struct header *);

/* ---- tables (tables.c) ---- */

/* The tables of an image say where its parts lie:
 *
 *     L1 table        8 bytes for each L2 table
 *     L2 table        a cluster of entries, one for each cluster of the disk; an entry has 8 bytes,
 *                     in an extended table 16
 *     refcount table  8 bytes for each refcount block, a cluster
 *
 *     entry of L1     bits 9-55: where the L2 table is, 0: none
 *                     bit 63: nothing else refers to the table
 *     entry of L2     bits 9-55: where the data are, 0: none
 *                     bit 63: nothing else refers to the data
 *                     bit 0: the cluster reads as zeros, whatever stands there (version 3)
 *                     bit 62: the data are compressed.  The bits below 62-(cluster_bits-8) say at which
 *                     byte they begin, the bits above into how many sectors of 512 bytes behind the
 *                     first one they reach
 *     extended        bits 0-31 of the second 8 bytes say which 32nds of the cluster have data, bits
 *                     32-63 which are zeros
 *     of refcounts    bits 9-63: where the block is, 0: none
 *
 *     80 00 00 00  00 05 00 00      the data are at 0x50000, and nothing else refers to them */
struct tables {
	/* NULL: the file has all that the disk shows, each part in a place of its own.  On the task. */
	const char *wrong;
	/* Compressed data end somewhere in their last sector.  Where the file's end cuts that sector, the
	 * tables do not tell whether data are missing.  This is the place on the disk of the last such
	 * cluster, or NOWHERE. */
	uint64_t unsure;
};
#define NOWHERE UINT64_MAX

/* Walks through all tables of an image whose header is sound; fd is its file, of file_size bytes.  Each
 * byte that is needed to read the disk has to lie in the file, and no two entries of L1 may name one L2
 * table.  apart: nor may two entries name the same data, when one of them says that nothing else does.
 * The time that this takes grows with the tables that the file holds, and not with the sizes in its
 * header.  -1: the file cannot be read, or the task was cancelled. */
int tables_walk(struct task *, int fd, uint64_t file_size, const struct header *, bool apart,
		struct tables *ret);
