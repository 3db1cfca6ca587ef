// SPDX-License-Identifier: Apache-2.0
/* disk.h -- a volume, or an image from outside, that is open for reading or writing at any place.
 *
 *     disk.c  <--- NBD, libnbd --->  qemu-storage-daemon  <-->  the volume's layers
 *
 * One request at a time, and all of them heed the task's cancel.  What is zero takes no room: where a
 * disk shows none already, it is made a hole. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;
struct sr;
struct stream;
struct disk;

enum { DISK_PIECE = 2 << 20 }; /* a good size for reading and writing */

/* The volume must not be open for writing elsewhere.  NULL: failed. */
struct disk *disk_open(struct task *, const struct sr *, const char *id, bool writable);
/* The qcow2 image in an open file, whose header the caller has judged: it names no other file. */
struct disk *disk_open_image(struct task *, int image);
/* result 0: what was written is durable when this returns 0.  Else what was going on is given up, and the
 * error's cause is looked for.  Returns result, or -1. */
int disk_close(struct task *, struct disk *, int result);

uint64_t disk_size(const struct disk *);

/* What there is at `at`: how many bytes of one kind, at most limit, and whether they may hold anything but
 * zeros. */
int disk_extent(struct task *, struct disk *, uint64_t at, uint64_t limit, uint64_t *ret_n,
		bool *ret_data);
int disk_read(struct task *, struct disk *, uint64_t at, void *to, size_t n);
/* Zeros become holes, by the block of 64 KiB.  VDI_TOO_SMALL behind the end. */
int disk_write(struct task *, struct disk *, uint64_t at, const void *from, size_t n);
int disk_zero(struct task *, struct disk *, uint64_t at, uint64_t n);

/* The whole disk as raw bytes to the stream; what is a hole is not read. */
int disk_send(struct task *, struct disk *, struct stream *);
/* All that the stream brings, from the disk's beginning. */
int disk_receive(struct task *, struct disk *, struct stream *);
/* The whole content of one, zeros too, onto the beginning of the other. */
int disk_copy(struct task *, struct disk *from, struct disk *to);
