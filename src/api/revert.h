// SPDX-License-Identifier: Apache-2.0
/* revert.h -- a revert on its way: vm_revert.c is the call, revert_disks.c what becomes of disks and drives. */
#pragma once

#include "api/vm_copy.h"
#include "model/model.h"

struct plan;
struct taken;
struct task;

struct revert {
	const char *vm, *snapshot;      /* refs */
	struct plan *disks;             /* the snapshot's, with a new volume each */
	struct VDI_row *memory;         /* a checkpoint's, to be stored; NULL: it has none */
	struct taken *kept;             /* what is set aside; NULL: nothing */
	struct vm_copy devices;         /* from the snapshot */
	struct list detached, replaced; /* refs of disks */
	bool ends;                      /* the VM had a process */
};

/* The disk that the snapshot's was taken of, if it is the VM's and nobody else's; NULL: it was destroyed since, given
 * away, put aside, or is shared. */
struct VDI_row *revert_target(struct task *, const char *vm, const struct VDI_row *snap);
/* These are marked as busy, all at once, but for those that are set aside, which are already. */
int revert_take(struct task *, struct revert *);

/* In the transaction: each disk gets its new volume, or a new disk does.  OTHER_OPERATION_IN_PROGRESS: whose a disk is
 * has changed since revert_take(). */
int revert_disks(struct task *, struct revert *);
/* In the transaction, after it: the VM's drives and interfaces are the snapshot's. */
int revert_devices(struct task *, struct revert *, struct VM_row *vm);
