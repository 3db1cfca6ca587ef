// SPDX-License-Identifier: Apache-2.0
/* caretaker.h -- a guest is never left standing: a process that outlives the daemon lets it go on.
 *
 * For some deeds a guest stands still for a moment: its memory is saved, or loaded, or a merge
 * comes to its end.  A daemon that is killed in that moment would leave the guest so until somebody
 * starts the daemon again.  So each daemon has a caretaker: its own program under another name
 * (vmm/apart.h), which does nothing but wait for its daemon's end, however that comes.  Then it
 * does of the next start's work what a guest waits for, and ends:
 *
 *     the daemon               the caretaker                 QEMU
 *     row VM_RESUME, durable
 *     stop                                              ->   the guest stands still
 *     is killed          ->    reads the journal
 *                              adopts the VM, as the
 *                              next start does          ->   a save is cancelled
 *                              cont                     ->   the guest goes on
 *     the next daemon waits
 *     for that, and replays
 *     the journal
 *
 * It costs nothing before the daemon's end: no word is said in a pause, and no QEMU has a second
 * connection.  What is to be done needs no telling either: a row is durable before its deed is
 * begun, and goes with the transaction that writes the result (db/journal.h).  So what the journal
 * says when nobody writes it any more is what is so.  The caretaker writes nothing: the next start
 * finds the same rows and does the same again, for each verb looks at the world first.
 *
 * Who is let go on, and who stays:
 *
 *     a checkpoint, in whichever way    VM_RESUME, from its rehearsal to its record: goes on.
 *                                       A guest that a user had paused has no such row, and stays
 *     a suspend, up to its record       VM_RESUME: goes on.  Its image is no VM's, and the next
 *                                       start deletes it (VOL_DELETE): nobody comes back to it
 *     a suspend, after its record       no row: stays, and the next start ends it.  The image is
 *                                       the VM's now, and must be of the same time as its disks
 *     a resume, up to its record        GUEST_KILL: stays, for the image is still the VM's
 *     a resume, after its record        VM_RESUME, which is written with the record that drops the
 *                                       image: goes on.  If it was saved frozen it is thawed, by
 *                                       GUEST_THAW of the deeds to come.  One that was to come back
 *                                       paused has no row, and stays
 *     a revert, up to its record        VM_RESUME: goes on, as what it was
 *     a revert, after its record        GUEST_KILL: stays, for its disks have other volumes now
 *     a merge from the top, at its end  MERGE_SETTLE.  The guest's writes wait, and both layers are
 *                                       equal: before the record the merge is given up, after it
 *                                       finished.  So the guest writes the layer that the rows name
 *     a start                           GUEST_KILL: it has never run
 *     a pause by a user, a full
 *     storage, a panic                  no row: stays.  One that panicked while a row was there
 *                                       stays, too (VMM_DEAD)
 *     the agent has frozen it           the freezer thaws it (vmm/freeze.h)
 *
 * A snapshot of disks stops no guest: QEMU switches them in one command, which it executes or not.
 *
 * A daemon that hangs, or is stopped (SIGSTOP), is not dead.  Nobody could tell whether it is about
 * to go on, and a guest that is let go on behind its back would make memory and disks those of two
 * instants. */
#pragma once

struct task;

/* Starts the caretaker, when the database is open. */
int caretaker_open(struct task *);
/* Starts another one when it has ended. */
void caretaker_look(struct task *);
/* The daemon ends, and nothing is left to be done: so does the caretaker. */
void caretaker_dismiss(void);

/* main() becomes this program with the option, the driver's name and the state folder. */
#define CARETAKER_OPTION "--caretaker"
int caretaker_main(const char *vmm, const char *state);
