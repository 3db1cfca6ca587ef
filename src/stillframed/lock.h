// SPDX-License-Identifier: Apache-2.0
/* lock.h -- one daemon a state folder, and one caretaker of it: the file STATE/lock.
 *
 *     byte 0   the daemon's, as long as it lives
 *     byte 1   its caretaker's, which outlives it (caretaker.h)
 *
 * A daemon that comes has the first byte before it waits for the second one to be free; a
 * caretaker whose daemon has ended has the second one when it looks whether anybody has the first.
 * So a new daemon and an old one's caretaker are never at work at once, whoever comes late.
 *
 * The locks are of fcntl(), a process's own: what a daemon had forked when it was killed does not
 * keep them (as it would an flock() until its exec).  So a process opens the file once only. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct task;

/* The daemon's.  Fails when another one has it. */
int lock_take(struct task *);
/* After that: waits for the caretaker of the daemon before, and ends it when it takes long. */
int lock_await_caretaker(struct task *);
void lock_give_back(void);

/* The caretaker's, while its daemon lives. */
int lock_take_as_caretaker(struct task *);
/* When that daemon, which may have died at any time, has ended: is there another one by now? */
bool lock_is_taken_again(pid_t daemon);
