// SPDX-License-Identifier: Apache-2.0
/* save.h -- a running QEMU's memory and devices to a socket, its disks going over at the same instant; and back.
 *
 *     background   QEMU write protects RAM (userfaultfd) and sends it while the guest runs on:
 *
 *                     migrate       QEMU looks at each page once: with much memory that takes long
 *                     stop          when it is half through
 *                     transaction   all disks
 *                     cont          when RAM is write protected
 *
 *                  Valid when the guest stood still before QEMU took the devices' state: when stop was answered
 *                  before the event "active" came.  Else the guest goes on when RAM is write protected, the
 *                  migration is cancelled, and it is done again, with an earlier stop, and in the end with
 *                  stop first.
 *     pre-copy     RAM is sent while the guest runs, what it writes is sent again, until little is left: then QEMU
 *                  stops it and waits (pause-before-switchover): transaction, migrate-continue, cont.  Should
 *                  it not get there in time, stop
 *     stopped      stop, transaction, migrate, cont
 *
 * The first look at a guest's memory takes much longer than later ones, and one behind a look that was just done is
 * the shortest: so a background snapshot of which nothing comes goes before each.  How long the looks of a VM take is
 * remembered, to send the stop in time.
 *
 * A guest that waits for a page which QEMU cannot send can hold up QEMU's main loop, and its monitor.  Who reads
 * gives up then (memory/receiver.h); should that not be enough, a second connection to the monitor, out of band, cuts
 * the migration's socket (yank).
 *
 * (QEMU: docs/devel/migration/, qapi/migration.json, qapi/yank.json.) */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "vmm/vmm.h"

struct qmp;
struct process;
struct way;

struct saving {
	_Atomic int64_t active_us; /* when the event said that the migration is; 0: not yet */
	bool fresh;                /* the guest has never run */
	uint64_t memory;           /* bytes of it, by which waits are measured */
	int64_t look_us; /* what QEMU's look at all pages is expected to take; 0: not known */
	struct qmp *oob; /* while one runs: for when QEMU's main loop hangs in it; NULL: none */
	const struct way *way; /* of the save that is prepared or runs */
};

void save_on_event(struct saving *, const json_t *data);

/* vmm.h says what these do. */
int save_rehearse(struct task *, struct qmp *, struct saving *, const struct process *,
		  const char *oob_path, struct vmm_save *);
int save_begin(struct task *, struct qmp *, struct saving *, const struct process *,
	       const char *oob_path, struct vmm_save *);
int save_end(struct task *, struct qmp *, struct saving *, bool cancel);

/* A daemon that died in the middle of a save: what it left is ended. */
int save_settle(struct task *, struct qmp *, struct saving *);
/* The QEMU of a save is let go. */
void save_forget(struct saving *);

/* Loads the image into a QEMU of so many bytes of memory that was started with -incoming defer, from that file
 * name. */
int save_load(struct task *, struct qmp *, const char *file, uint64_t offset, uint64_t memory);
