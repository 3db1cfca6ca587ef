// SPDX-License-Identifier: Apache-2.0
/* vm_copy.h -- a VM's record made from another's: the fields of snapshots and clones. */
#pragma once

#include "model/model.h"

struct task;

struct vm_copy {
	const struct VM_row *from;
	const char *new_name;
	bool snapshot;   /* else a clone */
	bool memory;     /* devices are attached as they were, for the memory knows them */
	const char *tpm; /* what its TPM remembered at the instant; NULL: what it remembers now */
	struct map vdis; /* ref of a disk -> ref of its copy; drives of others are left out */
	struct list disowned; /* of these copies, those that shall not be deleted with the VM */
	struct VM_row *ret;   /* stored; may be changed and put again in the transaction */
};

/* In a transaction: the VM's row, metrics, drives and interfaces. */
int vm_copy(struct task *, struct vm_copy *);

/* The same for the devices alone, of one VM onto another, whose own were deleted. */
int vm_copy_devices(struct task *, const struct vm_copy *, const struct VM_row *to);
