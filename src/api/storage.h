// SPDX-License-Identifier: Apache-2.0
/* storage.h -- from rows to storage: which SR a row means, and whose a volume is.
 *
 * Each volume has exactly one VDI row, whose location is its id.  A volume whose disk or snapshot was
 * deleted while others are layers over it keeps its data, hidden: its row is a "base copy" with
 * managed=false.  It goes when the last layer over it does. */
#pragma once

#include "model/model.h"
#include "sr/sr.h"

struct task;

/* The plugged SR of the row; SR_NOT_ATTACHED, SR_HAS_NO_PBDS.  The task holds it until the task is
 * freed: who unplugs the SR meanwhile closes it only then. */
const struct sr *storage_sr(struct task *, const char *sr_ref);
/* 0 while the SR's place is there: else nothing may be told as done in it.  Not in a transaction,
 * as it asks the storage. */
int storage_check_place(struct task *, const char *sr_ref);
/* Is what is in the SR somebody else's, and only read? */
bool storage_is_borrowed(struct task *, const char *sr_ref);
/* The plugged SR of the row, for making or removing volumes; also SR_OPERATION_NOT_SUPPORTED [sr]. */
const struct sr *storage_writable_sr(struct task *, const char *sr_ref);
/* Can copies of disks go into the SR?  NULL_REF, each into that of its original: always. */
int storage_check_target(struct task *, const char *sr_ref);
/* Attaches (create: makes it), keeps it for storage_sr().  One that is attached, and whose place is
 * there, stays so. */
int storage_attach(struct task *, const struct SR_row *, const struct map *config, bool create);
/* Of a plugged SR: a place that went away is looked for again.  Where guests have files of another
 * folder open, the SR does not move from there. */
int storage_find_again(struct task *, const char *sr_ref);
/* Waits for a moment for those who are at work on it. */
void storage_detach(const char *sr_uuid);
/* Of an SR that is not plugged: the same, and its place says that nobody holds it; also where only
 * that is still to be done. */
int storage_leave(struct task *, const struct SR_row *);
/* No other thread attaches the SR or lets go of it until what is returned, or ctx, is freed: so that
 * its row can be read or written with it.  May be nested. */
void *storage_alone(const void *ctx, const char *sr_uuid);
/* The place is no SR any more, after the journal was told.  SR_NOT_EMPTY. */
int storage_destroy(struct task *, const struct SR_row *, const struct map *config);
/* What that has taken away of an SR that is not plugged is there again. */
int storage_restore(struct task *, const struct SR_row *, const struct map *config);
/* An SR whose making came to no end is not there, nor any part of it. */
int storage_unmake(struct task *, const struct SR_row *, const struct map *config);
/* At the start: attaches what was plugged; what cannot be is logged and unplugged. */
void storage_open(struct task *);
void storage_close(void);

/* The record that owns the volume now, or NULL. */
struct VDI_row *storage_owner(struct task *, const char *volume);
/* Is any volume a layer over this one? */
bool storage_has_layers(struct task *, const char *volume);

/* In a transaction: the volume is of no record any more, and is deleted soon, in the background.  The
 * journal keeps these deeds to come under a name of their own. */
#define STORAGE_RECLAIM "reclaim+"
int storage_delete_later(struct task *, const char *sr, const char *volume);
/* In a transaction: the volume has lost a layer.  When it is hidden and that was the last one it is deleted
 * later, and so on with what is below it; "" is none. */
int storage_prune(struct task *, const char *sr, const char *volume);
/* In a transaction: the volume has lost its record.  Deletes it later, with all hidden layers below that
 * nothing needs any more; or, when others are layers over it, hides it, and it is merged in the background.
 * from: the row it belonged to, for size and SR. */
int storage_release(struct task *, const struct VDI_row *from, const char *volume,
		    const char *parent);

/* In a transaction: a hidden row for the volume below. */
int storage_hide(struct task *, const struct VDI_row *from, const char *volume, const char *parent);

/* The disk's row says how large its volume is, as the storage tells; nothing when either is gone. */
int storage_settle_size(struct task *, const char *vdi);
/* The two steps of it.  What has not changed is not written.  The row of a disk that has another volume by
 * now stays as it is. */
int storage_write_size(struct task *, const char *vdi, const struct volume *);
/* physical_utilisation: of all volumes; virtual_allocation: of those that are no base copies. */
int storage_write_sums(struct task *, const char *sr_ref, uint64_t physical_size);
/* Asks the storage how large the volumes are, and writes the sums to the SR's row; no error is
 * raised when it cannot be asked.  vdis: refs, NULL ended. */
void storage_refresh(struct task *, const char *sr_ref, const char *const *vdis);
