// SPDX-License-Identifier: Apache-2.0
/* timers.h -- what is done again and again, on one thread. */
#pragma once

struct task;

int timers_start(struct task *);
void timers_stop(void);
