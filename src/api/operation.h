// SPDX-License-Identifier: Apache-2.0
/* operation.h -- long exclusion, as a row that everybody sees: current_operations.
 *
 * Which operation needs which power state and excludes which others is one table
 * (operations.def), and allowed_operations is computed from the same. */
#pragma once

#include "model/model.h"

struct task;

/* Waiting is one thing, whatever is busy: who finds an object busy looks again whenever something has changed, for 20 s in
 * all, and is then refused with what it is busy with, and whose task that is.
 *
 * try is one look, in a transaction of its own, on a task_part() that is freed after it.  1: done; 0: busy, and it has
 * failed with OTHER_OPERATION_IN_PROGRESS; -1: failed.  Not to be waited for in a transaction. */
typedef int operation_try(struct task *, void *arg);
int operation_wait(struct task *, operation_try *, void *arg);
/* What a try returns that has failed: 0 when that was since something is busy. */
int operation_tried(const struct task *);

/* Checks the operation on the VM, waits a while for others to end, and marks the VM busy with it:
 * current_operations has task->ref, and the journal a row that takes it out again.  A process that an earlier daemon has
 * left is asked first.  The row as it is
 * now, or NULL with the error: VM_BAD_POWER_STATE, OTHER_OPERATION_IN_PROGRESS, ... */
struct VM_row *operation_begin(struct task *, const char *vm, enum vm_operations op);

/* The same for a disk.  check, if not NULL, is what has to be true of it besides, looked at in the transaction that marks
 * it; operation_check_vdi() knows what is usual. */
typedef int vdi_check(struct task *, const struct VDI_row *, const void *arg);
struct VDI_row *operation_begin_vdi(struct task *, const char *vdi, enum vdi_operations op,
				    vdi_check *check, const void *arg);
/* In a transaction, for a try that marks several: 1: marked; 0: busy, -1: failed, or busy with what this very task does. */
int operation_mark_vdi(struct task *, struct VDI_row *, enum vdi_operations op);

/* The same for a drive or an interface (class VBD or VIF), op being a value of vbd_operations or
 * vif_operations: nobody else is busy with it, nor with its VM in a way beside which devices have to stay. */
struct row *operation_begin_device(struct task *, const struct class *, const char *ref,
				   const char *op);
/* The same without waiting, whatever its VM is busy with.  False: someone is busy with it, or it is gone. */
bool operation_take_device(struct task *, const struct class *, const char *ref, const char *op);
/* In an operation beside which devices have to stay: waits until those that are on their way have come or gone, and disks
 * that grow have grown. */
int operation_wait_devices(struct task *, const char *vm);
/* OTHER_OPERATION_IN_PROGRESS: the VM is busy in a way beside which devices, and the sizes of its disks, have to stay. */
int operation_check_devices(struct task *, const struct VM_row *vm);

/* Takes the operation's marks off all objects and drops its journal rows.  The last step of the
 * transaction that writes the result: rows read before are stale after it. */
int operation_end(struct task *);

/* What could begin now. */
struct list allowed_operations(struct task *, const struct row *);

/* Only the checks, without marking or waiting. */
int operation_check(struct task *, const struct VM_row *vm, enum vm_operations op);

/* The same for a disk by itself: who uses it (VDI_IN_USE), what it is, and what it is busy with.  Copies only read: they go
 * beside each other, and beside a snapshot or a clone, which freezes what they read. */
int operation_check_vdi(struct task *, const struct VDI_row *, enum vdi_operations op);

/* Fails with VM_BAD_POWER_STATE. */
int bad_power_state(struct task *, const struct VM_row *vm, const char *expected);
