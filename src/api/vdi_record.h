// SPDX-License-Identifier: Apache-2.0
/* vdi_record.h -- a disk's record made from another's: those of snapshots, clones and copies.
 *
 * All are called in the transaction that records the operation, with the disk's fields as they are
 * then, and store the new row. */
#pragma once

struct plan_disk;
struct task;
struct VDI_row;

/* The frozen volume, or a copy that was made over a snapshot's own, as a snapshot; d->new_vdi is it. */
int vdi_record_snapshot(struct task *, struct plan_disk *d);
/* d->copy as a disk of its own; the volume below becomes a hidden layer where the disk goes on with an
 * overlay.  d->new_vdi is it. */
int vdi_record_clone(struct task *, struct plan_disk *d);
/* The disk of `from` (ref) with the volume and the SR of made, which is not stored. */
int vdi_record_copy(struct task *, const char *from, const struct VDI_row *made, const char **ret);
