// SPDX-License-Identifier: Apache-2.0
/* crash.h -- places where a test ends the process with SIGKILL.
 *
 * With STILLFRAME_CRASH_AT=N in the environment the N-th place passed is the last.  Without it a
 * place costs one comparison. */
#pragma once

void crash_point(void);
/* The same at a place where a guest stands still, or its writes wait, until we let it go on.  Only
 * these are counted by STILLFRAME_CRASH_STANDING=N. */
void crash_point_standing(void);
/* The n-th place from here on is the last: for a process that was forked. */
void crash_after(int n);
