// SPDX-License-Identifier: Apache-2.0
/* operation.h -- long exclusion, as a row that everybody sees: current_operations.
 *
 * Which operation needs which power state and excludes which others is one table
 * (operations.def), and allowed_operations is computed from the same. */
#pragma once

#include "model/model.h"

struct task;

/* Checks the operation on the VM, waits a while for others to end, and marks the VM busy with it:
 * current_operations has task->ref, and the journal a row that takes it out again.  The row as it is
 * now, or NULL with the error: VM_BAD_POWER_STATE, OTHER_OPERATION_IN_PROGRESS, ... */
struct VM_row *operation_begin(struct task *, const char *vm, enum vm_operations op);
/* The same for a disk; no power state is looked at.  verb is for the error text of a disk in use. */
struct VDI_row *operation_begin_vdi(struct task *, const char *vdi, enum vdi_operations op);

/* The same for a drive or an interface (class VBD or VIF), op being a value of vbd_operations or
 * vif_operations: nobody else is busy with it, nor with its VM in a way that could take it away. */
struct row *operation_begin_device(struct task *, const struct class *, const char *ref,
				   const char *op);
/* The same without waiting, whatever its VM is busy with.  False: someone is busy with it, or it is gone. */
bool operation_take_device(struct task *, const struct class *, const char *ref, const char *op);

/* May op begin on a disk that is no snapshot's, with the marks it has?  Copies only read: they go beside
 * each other, and beside a clone, which freezes what they read. */
bool vdi_is_free(const struct VDI_row *, enum vdi_operations op);

/* Takes the operation's marks off all objects and drops its journal rows.  The last step of the
 * transaction that writes the result: rows read before are stale after it. */
int operation_end(struct task *);

/* What could begin now. */
struct list allowed_operations(struct task *, const struct row *);

/* Only the checks, without marking or waiting. */
int operation_check(struct task *, const struct VM_row *vm, enum vm_operations op);

/* The same for a disk by itself: who uses it (VDI_IN_USE), and what it is. */
int operation_check_vdi(struct task *, const struct VDI_row *, enum vdi_operations op);

/* Fails with VM_BAD_POWER_STATE. */
int bad_power_state(struct task *, const struct VM_row *vm, const char *expected);
