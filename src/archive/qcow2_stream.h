// SPDX-License-Identifier: Apache-2.0
/* qcow2_stream.h -- a qcow2 image, version 3, of what a disk has allocated, written from its first byte to its
 * last.
 *
 * The format's header is drawn in sr/header.h.  All tables come before the data, each cluster (64 KiB) is
 * used once, and the data stand in the order of the disk; so one number is enough to fill in a table.
 *
 *     header | refcount table | refcount blocks | L1 table | L2 tables | data
 *
 *     refcount table   8 bytes for each refcount block: where it is
 *     refcount block   2 bytes for each of 32768 clusters of the image: 1
 *     L1 table         8 bytes for each 512 MiB of the disk: where the L2 table is, or 0
 *     L2 table         8 bytes for each of 8192 clusters of the disk: where its data are, or 0
 *
 * Entries of L1 and L2 have their highest bit set: nothing else refers to the cluster.  A disk of 1 MiB whose
 * second cluster has data becomes six clusters and one of data:
 *
 *     00000  51 46 49 fb 00 00 00 03 ...     header
 *     10000  00 00 00 00 00 02 00 00         refcount table: the block is at 0x20000
 *     20000  00 01 00 01 00 01 00 01 00 01 00 01
 *     30000  80 00 00 00 00 04 00 00         L1: the table is at 0x40000
 *     40000  00 00 00 00 00 00 00 00
 *     40008  80 00 00 00 00 05 00 00         L2: the second cluster is at 0x50000
 *     50000  the data */
#pragma once

#include <stdint.h>

struct task;
struct blocks;
struct image_disk;
struct stream;

enum { QCOW2_STREAM_BITS = 16 }; /* of blocks */

/* Bytes of the image. */
uint64_t qcow2_stream_length(const struct blocks *);
int qcow2_stream_write(struct task *, const struct blocks *, struct image_disk *, struct stream *);
