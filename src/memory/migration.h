// SPDX-License-Identifier: Apache-2.0
/* migration.h -- QEMU's migration stream, as it comes in.
 *
 * Big endian; version 3 (QEMU: docs/devel/migration/main.rst, migration/savevm.c, migration/ram.c):
 *
 *     "QEVM" be32 3
 *     07  be32 n  machine type    { 05 u8 n name be32 version body }   configuration and its subsections
 *     01  be32 id u8 3 "ram" be32 instance be32 4  PAYLOAD  7e be32 id  RAM's first section
 *     02  be32 id  PAYLOAD  7e be32 id                                 ... one of those between
 *     03  be32 id  PAYLOAD  7e be32 id                                 ... its last; background-snapshot
 *                                                                      sends none
 *     08  be16 11 be16 0                                               before the last, from machines of
 *                                                                      QEMU 10.0 on: devices may begin
 *     04  ...  device sections, of which only QEMU knows how long they are
 *     00  06 be32 n  their description, JSON
 *
 *     PAYLOAD: { be64 (offset or size | flags) ... }, the last with flag 10
 *     04  size of all blocks; then for each: u8 n name be64 size
 *     08  a page: [u8 n name, unless flag 20: of the same block as before] 4096 bytes
 *     02  a page of zeros: [the same] 00
 *     10  the end of this payload
 *
 * Nobody vouches for it: a guest may have taken over its QEMU.  What is not of this form, or asks for more
 * than the limits, is refused. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct task;

enum {
	MIGRATION_PAGE = 4096,
	MIGRATION_BLOCKS = 256, /* of RAM, at most */
	MIGRATION_STATE_MAX =
		64 << 20 /* bytes of device sections; a small machine has some 120 KiB */
};

struct migration_block {
	const char *name; /* on the task; 1 to 255 bytes, none of them 0 */
	uint64_t size;    /* bytes, a multiple of MIGRATION_PAGE */
};

/* What was read, in the order in which the functions are called.  Each returns 0, or -1, failed, which ends
 * the reading. */
struct migration_sink {
	/* The machine type; all blocks, n > 0.  Once, before any page. */
	int (*begin)(struct task *, void *arg, const char *machine, size_t n,
		     const struct migration_block *);
	/* A page of a block.  NULL: it is zeros.  One may come more than once: the last counts. */
	int (*page)(struct task *, void *arg, size_t block, uint64_t offset, const void *page);
	/* All behind RAM's last section, verbatim, n > 0. */
	int (*state)(struct task *, void *arg, const void *bytes, size_t n);
	void *arg;
};

struct migration_source {
	/* As read(2): some bytes, 0 at the end; -1, failed. */
	ssize_t (*read)(struct task *, void *arg, void *to, size_t n);
	void *arg;
};

/* Reads to the end.  limit: bytes of RAM, all blocks together.  0: it was whole: RAM and device sections came to
 * their ends.  INTERNAL_ERROR, with the place, when it was not, or was of another form. */
int migration_read(struct task *, const struct migration_source *, uint64_t limit,
		   const struct migration_sink *);
