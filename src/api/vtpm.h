// SPDX-License-Identifier: Apache-2.0
/* vtpm.h -- virtual TPMs: what one remembers, through the life of its VM.
 *
 * While a VM has no process, its VTPM's row holds it; while it has one, the file of its emulator does
 * (vmm/tpm.h).  The transaction that records a VM's end also takes the file's content back into the row.
 * So a copy of the VM is a copy of the row, and a snapshot of a running one has what the file held a moment
 * after the disks' instant: to its guest, a power cut that lost the last writes to the disks. */
#pragma once

#include "model/model.h"

struct task;

/* Before a start: what an earlier run left in its file, and the row has taken over, goes; a VM with
 * platform:vtpm=true that has no TPM gets one. */
int vtpm_ensure(struct task *, const struct VM_row *);
/* For a start: what the TPM of a VM without a process remembers, in hex, on t; NULL: it has none. */
const char *vtpm_remembers(struct task *, const struct VM_row *);
/* In a transaction, before the row says Halted: the VM's process is gone. */
int vtpm_save(struct task *, const struct VM_row *);
/* In a transaction: `to` gets a TPM like that of `from`, or none, instead of its own.  One that is unique is
 * copied empty; and where there is one already, that stays. */
int vtpm_copy(struct task *, const struct VM_row *from, const struct VM_row *to);
