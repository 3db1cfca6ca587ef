// SPDX-License-Identifier: Apache-2.0
/* clock.h -- two clocks: one to wait by, which only ever goes on, and that of the day, which may be set.
 *
 * A test sets and steps the daemon's day by a file, `stillframed --test-clock FILE`: eight bytes, by so many seconds
 * the day is ahead of the host's, signed, lowest byte first.  The file is mapped, so that what is written into
 * it counts at once, and a look costs nothing:
 *
 *     80 51 01 00 00 00 00 00        tomorrow at the same time (86400) */
#pragma once

#include <pthread.h>
#include <stdint.h>

struct task;

/* ---- to wait by ---- */

/* Monotonic milliseconds; the second with fractions, for what is measured. */
int64_t clock_ms(void);
double clock_exact_ms(void);
/* Waits for the condition until that time on clock_ms(); as pthread_cond_wait() does, perhaps for nothing.  The clock of the
 * day may be set meanwhile. */
void clock_wait(pthread_cond_t *, pthread_mutex_t *, int64_t until);

/* ---- of the day ---- */

/* Since 1970, UTC. */
int64_t clock_day_s(void);
int64_t clock_day_ns(void);

/* The host's, by which the kernel gives files their times: a day that a test has stepped is none to compare those
 * with. */
int64_t clock_files_s(void);

/* The day is what the file says from now on.  To be called while there are no threads yet; once. */
int clock_day_from(struct task *, const char *path);
