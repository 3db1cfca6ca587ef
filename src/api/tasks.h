// SPDX-License-Identifier: Apache-2.0
/* tasks.h -- rows of class task, and the calls that run behind them. */
#pragma once

#include "base/list.h"

struct task;

/* After a start: nobody works any more on what was pending; old rows go. */
int tasks_open(struct task *);
/* Finished ones go when they are old; a client's that it has forsaken, too. */
int tasks_collect(struct task *);
/* Everybody may do as he likes with tasks of his own; with those of others a pool operator. */
struct task_row;
int task_check_owner(struct task *, const struct task_row *, const char *permission);
/* A text of a client's task may be so long; VALUE_NOT_SUPPORTED. */
int task_check_text(struct task *, const char *field, const char *text);
/* Makes room for one more task of the user, in the present transaction: the oldest of those that
 * are not at work goes. */
int tasks_make_room(struct task *, const char *owner);
/* A client has made the task for what it asks for now, over a path of its own: the next call takes it for its row.
 * HANDLE_INVALID, OPERATION_NOT_ALLOWED: it is none of its, or has ended. */
int task_adopt(struct task *, const char *ref);
/* Can it still be taken so? */
int task_check_adoptable(struct task *, const struct task_row *);
/* Such a task for a command of xe, whose connection for data takes it: the ref; NULL: failed.  Whoever has made it
 * ends it; one that the daemon left behind when it was killed is gone at the next start. */
const char *task_for_command(struct task *, const char *name);
/* It goes, now or, where the database fails just now, as soon as that works again. */
void task_of_command_ends(struct task *, const char *ref);
/* The request is over: if no call has taken the task, it ends as t has. */
void task_settle(struct task *);
/* At the end: asks all running calls to stop, and waits for them, at most ms.  No other begins.  False: some still
 * run. */
bool tasks_close(int ms);
/* Tries again what could not be undone or recorded, of calls that run no more.  It waits for none of it. */
void tasks_retry_undo(struct task *);
