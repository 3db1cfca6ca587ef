// SPDX-License-Identifier: Apache-2.0
/* vm_copy.h -- a VM's record made from another's: the fields of snapshots and clones. */
#pragma once

#include "model/model.h"

struct task;

struct vm_copy {
	const struct VM_row *from;
	const char *new_name;
	const char *new_ref; /* NULL: any */
	bool snapshot;       /* else a clone */
	bool memory;         /* devices are attached as they were, for the memory knows them */
	const char *tpm; /* what its TPM remembered at the instant; NULL: what it remembers now */
	struct map vdis; /* ref of a disk -> ref of its copy; drives of others are left out */
	struct list disowned; /* of these copies, those that shall not be deleted with the VM */
	struct VM_row *ret;   /* stored; may be changed and put again in the transaction */
};

/* In a transaction: the VM's row, metrics, drives and interfaces. */
int vm_copy(struct task *, struct vm_copy *);

/* VM.clone and VM.copy, whose result gets this ref.  NULL: any. */
struct VM_clone;
struct VM_copy;
int vm_clone_as(struct task *, struct VM_clone *, const char *ref);
int vm_full_copy_as(struct task *, struct VM_copy *, const char *ref);

/* The same for the devices alone, of one VM onto another, whose own were deleted. */
int vm_copy_devices(struct task *, const struct vm_copy *, const struct VM_row *to);
