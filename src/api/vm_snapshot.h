// SPDX-License-Identifier: Apache-2.0
/* vm_snapshot.h -- how a snapshot that was taken is recorded. */
#pragma once

#include "model/model.h"

struct plan;
struct quiesce;
struct task;

struct taken {
	struct plan *plan;
	const char *name;
	int64_t begin;           /* of the operation, as clock_ms() tells */
	const char *method;      /* how it was taken */
	struct quiesce *quiesce; /* NULL: that was not asked for */
	struct VDI_row
		*memory; /* with memory: its disk, which is stored with the rest; else NULL */
	uint64_t memory_bytes;
	int64_t number; /* with memory: the VM's, when it was taken */
	const char *
		tpm; /* what the VM's TPM remembered at the instant; NULL: it has none, or what it does now */
	const char *ret; /* ref of the snapshot */
};

/* In a transaction: the snapshot with its disks and devices; disks that the plan has overlays for go on with these. */
int vm_snapshot_store(struct task *, const char *vm, struct taken *);
/* One transaction: the snapshot with its disks and devices; the VM goes on with its overlays; the operation
 * ends. */
int vm_snapshot_record(struct task *, const char *vm, struct taken *);
