// SPDX-License-Identifier: Apache-2.0
/* jobs.h -- work that nobody waits for, each piece on a thread of its own. */
#pragma once

#include <stdbool.h>

struct task;

/* Runs run(t, arg), t being named name, after delay_ms.  A failure is logged.  False: it is not run, for the daemon ends,
 * or has no thread for it. */
bool jobs_start(const char *name, int (*run)(struct task *, const char *arg), const char *arg,
		int delay_ms);
/* At the end: what has not begun does not begin, what runs is interrupted, and waited for. */
void jobs_close(void);
