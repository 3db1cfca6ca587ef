// SPDX-License-Identifier: Apache-2.0
/* attempts.h -- how often passwords may be tried: however many connections a source opens
 * (base/peer.h), after a few wrong ones for a user its tries for that user are looked at one after
 * the other, the next ever later, up to a minute; after some more for whichever users, all its
 * tries are.  A try that is being looked at counts as a wrong one until it is known to be none, so
 * that many at once are no more than one after the other.
 *
 * A right one ends it for its user, and for nobody else: who has an account cannot buy tries for
 * another one with it.  Who has logged in from there before is not held up by what others behind
 * the same address do, and may log in from many places at once. */
#pragma once

struct task;

/* A try to log in that is under way. */
struct attempt;
enum attempt_outcome { ATTEMPT_WRONG, ATTEMPT_RIGHT, ATTEMPT_UNKNOWN };

/* Waits for the turn of t's peer with the user.  NULL: there are too many before it, or the task
 * was cancelled. */
struct attempt *attempt_begin(struct task *, const char *user);
void attempt_end(struct attempt *, enum attempt_outcome);
