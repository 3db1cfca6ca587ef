// SPDX-License-Identifier: Apache-2.0
/* tasks.h -- rows of class task, and the calls that run behind them. */
#pragma once

struct task;

/* After a start: nobody works any more on what was pending; old rows go. */
int tasks_open(struct task *);
/* Finished ones go when they are old, or too many; a client's that it has forsaken, too. */
int tasks_collect(struct task *);
/* At the end: asks all running calls to stop, and waits for them, at most ms. */
void tasks_close(int ms);
/* Tries again what could not be undone or recorded, of calls that run no more. */
void tasks_retry_undo(struct task *);
