// SPDX-License-Identifier: Apache-2.0
/* guests.h -- the running VMs: who has which process, and what their events mean for the rows. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

/* Begins to look for the guests that run already, each on a thread of its own: VMs whose process is gone become Halted.
 * Who needs one of them waits for that one alone (guest_await()). */
void guests_open(struct task *);
/* Until each of them has answered, or has let its time pass.  -1: cancelled. */
int guests_await(struct task *);
/* Lets go of all guests; they run on. */
void guests_close(void);

/* The VM's process, kept from going away until hold (any talloc context) is freed; NULL when it
 * has none, or none that has answered yet.  Hold it no longer than needed: who starts the VM anew waits for that. */
struct vmm *guest_get(const void *hold, const char *vm_ref);
/* The VM's process, held likewise; *ret is NULL when there is none.  It waits as guest_await() does.
 * OPERATION_NOT_ALLOWED: there is one that does not answer.  Not in a transaction. */
int guest_find(struct task *, const void *hold, const char *vm_ref, struct vmm **ret);
/* The same with VM_BAD_POWER_STATE when it has none. */
struct vmm *guest_need(struct task *, const void *hold, const struct VM_row *vm);
/* Until the process that an earlier daemon has left of the VM, if any, has answered or let its time pass.  -1:
 * cancelled. */
int guest_await(struct task *, const char *vm_ref);

/* Opens a door of the VM's process.  That is held for as long as the door takes to open, not for as long as
 * it is open. */
typedef int guest_door(struct task *, struct vmm *, int *fd);
int guest_connect(struct task *, const char *vm_ref, guest_door *, int *fd);
/* Has it one, even if that has not answered yet? */
bool guest_alive(const char *vm_ref);
/* The VMs that have one that answers, refs. */
struct list guests_running(struct task *);
/* Does it stand still since its storage is full?  Then its row says Paused: what was to be written to
 * that may have been overtaken by the event. */
bool guest_settle(struct task *, const char *vm_ref);
/* Called after a VMM call has failed.  True: the VM's process has ended, or does within 5 s. */
bool guest_ends(const char *vm_ref);

/* Before a VM without a process gets its number: a process of it that was left is ended, its
 * folder is made right for the next one, whatever an earlier one left there, and the place is kept
 * until hold (any talloc context) is freed. From now on guest_stop() ends what is made for it.
 * NULL: failed. */
struct starting;
struct starting *guest_begin(struct task *, const void *hold, const struct VM_row *vm);
/* Starts the process, once for each begin.  The row is not touched.  OTHER_OPERATION_IN_PROGRESS
 * when guest_stop() was called meanwhile. */
int guest_start(struct task *, struct starting *, struct vmm_config *);
/* Ends it, and waits for none of those who hold it: what they ask of it fails from now on.  No error when there is none.
 * One that another task is starting ends, too, and that task's start fails: its hold must not be waiting for this one.
 * The row is not touched. */
int guest_stop(struct task *, const char *vm_ref);

/* The VM's own folder under the state folder; it need not be there. */
const char *guest_path(struct task *, const char *vm_uuid);

/* Asks whether it runs, and writes it to the row. */
int guest_settle_state(struct task *, const char *vm_ref);

/* In a transaction: the row and its devices as those of a VM without a process. */
int guest_mark_halted(struct task *, struct VM_row *);
/* The same of one that is suspended: it keeps its devices from others. */
int guest_mark_suspended(struct task *, struct VM_row *);
