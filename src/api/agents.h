// SPDX-License-Identifier: Apache-2.0
/* agents.h -- the agents in the guests: one conversation with each at a time, and who asks them what
 * they know of their guests, seldom and without waiting for those that do not answer. */
#pragma once

#include <stdbool.h>

#include "vmm/agent.h"

struct task;

/* Starts and ends the threads that ask. */
int agents_open(struct task *);
void agents_close(void);

/* There may be an agent in the guest now: it is asked at once, and every now and then from now on. */
void agents_watch(const char *vm_ref);
/* There is none any more, or no guest: it is not asked, and what was asked is not recorded. */
void agents_forget(const char *vm_ref);

/* A connection to the VM's agent, on t, for the caller alone until it is freed.  Waits at most ms for
 * another caller; whoever only asks what the guest knows gives way at once.
 * OTHER_OPERATION_IN_PROGRESS [VM, ref, guest-agent, NULL]: it did not end in time. */
struct agent *agent_take(struct task *, const char *vm_ref, int ms);

/* Asks the guest to shut down, if its agent is alive, and waits a moment whether it says no.  False, with
 * no error: there is no agent that would do it. */
bool agent_shut_down(struct task *, const char *vm_ref);

/* Sets the clock of a guest that was asleep, if it had an agent, and looks whether it is right.  Returns what came
 * of it, for people: "its clock ...". */
const char *agent_set_clock(struct task *, const char *vm_ref);
