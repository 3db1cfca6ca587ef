// SPDX-License-Identifier: Apache-2.0
/* coalesce.h -- merges layers in the background, so that what was deleted gives its space back and no chain
 * gets long.
 *
 * Nobody waits for a merge: whoever is about to open, switch or copy layers holds them; merges that
 * are at work on them are cancelled, though one that has just begun gets a moment to end, and none
 * begins until the hold ends.  A merge goes on where it was cancelled.  There is one at a time on each
 * file system. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct task;

int coalesce_open(struct task *);
/* Cancels what runs and waits for it. */
void coalesce_close(void);

/* Something has changed about the volume, or one that it stands on or that stands on it: looks whether there
 * is something to do, soon.  From anywhere, also within a transaction. */
void coalesce_kick(const char *sr_ref, const char *volume);
/* The same for the disks that a VM has. */
void coalesce_kick_vm(struct task *, const char *vm_ref);
/* The same for all volumes of an SR. */
void coalesce_kick_sr(struct task *, const char *sr_ref);

/* Until hold (a talloc context) is freed the disk's volume is left alone; with `chain` all that it stands on
 * too.  Rows of the disk that were read before may be stale after it.  Waits for merges to end, some ten ms
 * mostly; OTHER_OPERATION_IN_PROGRESS when one does not. */
int coalesce_hold(struct task *, const void *hold, const char *vdi_ref, bool chain);
/* The same for the disks that the VM's drives have, and its UEFI store. */
int coalesce_hold_vm(struct task *, const void *hold, const char *vm_ref, bool chain);

/* The same for all of an SR; what is deleted there is gone when it returns. */
int coalesce_hold_sr(struct task *, const void *hold, const char *sr_ref);

/* The VM's process is about to end: what is at work in it gives up. */
void coalesce_interrupt_vm(const char *vm_ref);

/* Volumes that no record names are deleted, soon. */
void coalesce_reclaim_soon(void);
