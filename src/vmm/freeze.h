// SPDX-License-Identifier: Apache-2.0
/* freeze.h -- a guest's file systems hold still, by a process of its own that lets them go,
 * whatever becomes of us (apart.h).
 *
 *     we                        the freezer (freezer.c)            the guest's agent
 *     fork and exec        ->   guest-fsfreeze-status         ->
 *                          <-   "ready"                       <-   thawed
 *     "freeze MS HOLD_MS"  ->   guest-fsfreeze-freeze         ->
 *                          <-   "frozen N"                    <-   N
 *     the instant
 *     "thaw"               ->   guest-fsfreeze-thaw           ->
 *                          <-   "thawed N HELD_MS"            <-   N
 *     or at any time       <-   "failed KIND WHY", and it thaws
 *     "leave", the end     ->   it thaws
 *
 * The words are packets of a pair of sockets.  The freezer thaws when the socket ends, when HOLD_MS are over, counted from
 * the answer to the freeze, and behind a freeze that was not answered in time: an agent does what it is told in order,
 * so that one which comes to it late thaws at once.  With "leave" it does no more than to say so to the agent; if we are
 * gone it stays until the guest is thawed.
 *
 * Windows lets its writers go after 10 s, whatever an agent says, and its thaw then fails; an agent on Linux tells how
 * many file systems its thaw has found frozen.  So only what the thaw says tells that a guest held still all the time.
 *
 * (qemu-ga: qga/qapi-schema.json, guest-fsfreeze-*; qga/vss-win32/requester.cpp.) */
#pragma once

#include <stdbool.h>

#include "base/list.h"

struct agent;
struct freeze;
struct task;

enum freeze_failure {
	FREEZE_NO_ANSWER, /* of the agent, or none that makes sense */
	FREEZE_REFUSED,   /* the agent's own words say why */
	FREEZE_BROKEN,    /* it was frozen, and not until the end */
	FREEZE_LOST,      /* the freezer itself is gone */
};

/* Starts a freezer on the agent's port, which is to be nobody else's until freeze_close(); the port stays the
 * caller's.  When it returns, the agent has answered, and nothing is frozen.  All of these fail with
 * INTERNAL_ERROR [why]; *ret_how then tells the kind. */
struct freeze *freeze_open(struct task *, int port, enum freeze_failure *ret_how);

/* Freezes the file systems at these mount points, or all (none named), and waits at most ms. */
int freeze_guest(struct task *, struct freeze *, const struct list *mounts, int ms,
		 enum freeze_failure *ret_how);
/* ret_ms: from the answer to the freeze until the thaw was sent. */
int freeze_thaw(struct task *, struct freeze *, double *ret_ms, enum freeze_failure *ret_how);
/* From another thread: who waits for it to freeze or thaw fails with FREEZE_LOST. */
void freeze_interrupt(struct freeze *);
/* The freezer goes, and says thaw to the agent if that is not known to be thawed. */
void freeze_close(struct freeze *);

/* Of a guest that nobody has a freezer for, in ms: "thawed", "frozen", or whatever its agent says; NULL: failed. */
const char *freeze_status(struct task *, struct agent *, int ms);
/* Thaws a guest that nobody has a freezer for, until its agent says that it is. */
int freeze_release(struct task *, struct agent *);

/* The program that main() becomes with this as its only argument. */
#define FREEZER_OPTION "--freezer"
int freezer_main(void);
