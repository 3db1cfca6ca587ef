// SPDX-License-Identifier: Apache-2.0
/* attempts.h -- how often one source may try passwords: however many connections it opens, after a few wrong ones its
 * tries are looked at one after the other, the next ever later, up to a minute.  A right one, or an hour without any, and
 * it is as before.  Who sits behind the same address as a guesser waits with him. */
#pragma once

#include <stdbool.h>

struct task;

/* Waits for the turn of t's peer.  False: there are too many before it, or the task was cancelled. */
bool attempt_begin(struct task *);
void attempt_end(struct task *, bool right);
