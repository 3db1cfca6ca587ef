// SPDX-License-Identifier: Apache-2.0
/* vtpm.h -- virtual TPMs: what one remembers, through the life of its VM.
 *
 * While a VM has no process, its VTPM's row holds it; while it has one, and so a number, the file
 * of its emulator does (vmm/tpm.h).  The transaction that records a VM's end also takes the file's
 * content back into the row. So a copy of the VM is a copy of the row, and a snapshot of a running
 * one has what the file held a moment after the disks' instant: to its guest, a power cut that
 * lost the last writes to the disks. */
#pragma once

#include "model/model.h"

struct task;

/* Before a start: a VM with platform:vtpm=true that has no TPM gets one. */
int vtpm_ensure(struct task *, const struct VM_row *);
/* For a start, or for coming back from memory: what the TPM of a VM without a process remembers,
 * in hex, on t; NULL: it has none. */
const char *vtpm_remembers(struct task *, const struct VM_row *);
/* In a transaction, before the row says Halted: the VM's process is gone. */
int vtpm_save(struct task *, const struct VM_row *);
/* What the VM's TPM remembers at this moment, in hex, on t; NULL: it has none. */
const char *vtpm_now(struct task *, const struct VM_row *);
/* In a transaction: `to` gets a TPM like that of `from`, or none, instead of its own.  One that is
 * unique is copied empty; and where there is one already, that stays.  then: what it remembered at
 * the instant of a checkpoint, whose record is made much later; NULL: what it remembers now. */
int vtpm_copy(struct task *, const struct VM_row *from, const char *then, const struct VM_row *to);
