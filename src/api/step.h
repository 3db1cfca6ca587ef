// SPDX-License-Identifier: Apache-2.0
/* step.h -- carries out one step of api/tree.h, as a call with a task of its own.
 *
 *     journal     which layers are about to become one           undo MERGE_SETTLE
 *     work        in the QEMU that has them open, or by the layout
 *     sync        what was written, before anything names it
 *     record      one transaction: who stands on whom, whose is which volume; volumes that nothing needs
 *                 are deeds to come
 *     close       QEMU lets go of them; the journal's row goes
 *
 * Before `record` the database says what was, and all files of it are there; after it what is. */
#pragma once

#include "base/list.h"

struct step;
struct task;
struct vmm;

/* Runs the step on t, which has no task row yet. */
int step_run(struct task *t, const struct step *);

/* The merge that a row MERGE_SETTLE of the journal is about. */
struct step step_read(struct task *, const char *const *args);
/* MERGE_SETTLE replayed: see undo.h. */
int step_settle(struct task *, const char *const *args);
/* Do a guest's writes wait at the end of the merge?  So they do when it is one from the top. */
bool step_holds_guest(const struct step *);
/* Before MERGE_SETTLE is replayed: such a merge is finished, or given up, as the rows say. */
int step_let_go(struct task *, const struct step *, struct vmm *);
