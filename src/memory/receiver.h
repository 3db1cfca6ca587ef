// SPDX-License-Identifier: Apache-2.0
/* receiver.h -- takes in what QEMU migrates, and makes an image of it.
 *
 *     QEMU --socket--> drain --> ring --> writer --> image
 *
 * A guest that writes a page which is still to be saved waits until QEMU has sent it, and QEMU's monitor may
 * wait with it: whoever stops reading stops the guest.  So one thread does nothing but read, into memory; another
 * reads the stream out of that and writes the image.  When the image's disk does not get on, and the ring has
 * been full, the socket is closed: that costs the image, and the guest goes on.
 *
 * All of it takes less than 256 MiB for a guest of 1 TiB, whatever is in it and however slow the storage: the ring;
 * 16 MiB of sums and 4 MiB of their checks (sums.h); what the devices say, MIGRATION_STATE_MAX at most. */
#pragma once

#include <stdint.h>

#include "memory/image.h"

struct task;
struct receiver;

enum {
	RECEIVER_RING = 128 << 20, /* bytes; touched as far as needed */
	RECEIVER_LEAST = 16 << 20, /* bytes that the writer has to take in DELAY_MEMORY_STALL */
};

/* image: an empty file, open for reading and writing; stays the caller's.  limit: bytes of RAM, all blocks
 * together.  ret_theirs: QEMU's end, the caller's: the stream ends when nobody has it any more. */
struct receiver *receiver_open(struct task *, int image, uint64_t limit, int *ret_theirs);

/* Waits until the stream has come to its end and the image is written but for image_finish(); progress goes to
 * the task.  NULL: failed, with what the writer or the disk failed with.  The writer's, until receiver_close(). */
struct image_writer *receiver_wait(struct task *, struct receiver *);

/* Behind a failure of who sends: what it is due to, if it is the image that failed.  -1. */
int receiver_find_cause(struct task *, struct receiver *);

/* Closes the socket, if it is still open.  Never waits for the disk: a writer that hangs there is left behind, and
 * ends when the disk lets it. */
void receiver_close(struct receiver *);
