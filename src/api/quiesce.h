// SPDX-License-Identifier: Apache-2.0
/* quiesce.h -- a guest whose applications and file systems hold still for the instant of a snapshot.
 *
 *     begin    the agent's port is taken, a freezer started (vmm/freeze.h), the
 *              agent has answered                                     undo GUEST_THAW
 *     ...      all that takes long
 *     freeze   the guest is asked to, and has
 *     ...      the instant
 *     thaw     it goes on, and says whether it held still all the time
 *     end      the port is free
 *
 * A guest may take long to hold still, or for ever: whoever wants its disks meanwhile gets them, and the attempt fails.
 *
 * It may fail under load: an attempt that does is undone as a whole and made again, a little later.  Never is a snapshot
 * said to be quiesced that is not, and one that is not is taken only where that was asked for.
 *
 * Keys of VM.other_config: quiesce-attempts (3), quiesce-timeout (60: s that the guest may take to hold still),
 * quiesce-mounts (the mount points to freeze, separated by commas; all). */
#pragma once

#include "model/model.h"

struct agent;
struct freeze;
struct task;

struct quiesce {
	const char *vm; /* ref */
	int attempts;   /* that are made, at most */
	bool fallback;  /* to a snapshot that is not quiesced, when they all fail */
	int timeout_ms;
	struct list mounts;

	int attempt;     /* that is being made, from 1 */
	bool off;        /* it is the fall-back */
	const char *why; /* "attempt 1: ...; attempt 2: ...", what failed so far */
	struct agent *agent;
	struct freeze *freeze;
	struct waiting *waiting;
	void *scope; /* of the attempt, until it is undone: what it holds others up with is freed with it */
	int64_t begun;    /* the freeze, as clock_ms() tells */
	double freeze_ms; /* returned: from the answer to the freeze until the thaw was sent */
	const char *consistency; /* returned: "filesystem", or "application" */
};

/* As the call and other_config say; attempts 0: as other_config says.  INVALID_VALUE. */
int quiesce_config(struct task *, const struct VM_row *, int64_t attempts, bool fallback,
		   struct quiesce *ret);

/* Begins, runs `attempt`, and ends; and does so again as often as that is wanted when that failed with one of the errors
 * of quiescing, or since somebody else had the disks.  What it left in the journal is undone before.  The last error holds
 * the reasons of all.  VM_SNAPSHOT_WITH_QUIESCE_..., XEN_VSS_REQ_ERROR_... */
int quiesce_run(struct task *, struct quiesce *, int (*attempt)(struct task *, void *arg),
		void *arg);

/* The steps of an attempt.  q NULL, or off: nothing. */
int quiesce_freeze(struct task *, struct quiesce *);
int quiesce_thaw(struct task *, struct quiesce *);

/* Before the VM's disks are marked as busy: waits until an attempt of another call has ended; one that waits for the
 * guest to hold still for longer than 2 s is given up.  Returns when its marks are off, or after 20 s. */
int quiesce_make_way(struct task *, const char *vm);

/* May a quiesced snapshot be taken of it?  VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED. */
int quiesce_check(struct task *, const struct VM_row *);

/* Is the guest frozen by us, or may be? */
bool quiesce_holds(struct task *, const struct VM_row *);
/* The guest may be frozen by us, or was when its memory was saved: thaws it.  One that stands still is thawed when
 * it goes on. */
int quiesce_thaw_vm(struct task *, const char *vm);
/* The guest goes on: thaws it, if it is to be. */
int quiesce_release(struct task *, const char *vm);
/* The same as a deed to come, for a guest that is about to go on. */
int quiesce_release_later(struct task *, const char *vm);
