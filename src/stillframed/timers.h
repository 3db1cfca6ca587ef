// SPDX-License-Identifier: Apache-2.0
/* timers.h -- what is done again and again, each piece on a thread of its own. */
#pragma once

struct task;

int timers_start(struct task *);
void timers_stop(void);
