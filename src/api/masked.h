// SPDX-License-Identifier: Apache-2.0
/* masked.h -- texts that others read, without the secrets that a client put into its call.
 *
 * The reference of a session is all that it takes to be its user.  A client that gives it where another object's is
 * expected finds it in the error, and that error stands in a task, in the log and in audit.log, too. */
#pragma once

#include "base/list.h"

struct task;

/* The text with the reference of each session that there is cut to its beginning, and no more of it
 * than a task keeps, on t, which has not failed. */
const char *masked(struct task *t, const char *text);

/* The error of `how` as others may read it: "CODE: parameter, parameter"; its code and parameters one by one, empty
 * without an error.  On t, which has not failed. */
const char *masked_error(struct task *t, const struct task *how);
struct list masked_error_info(struct task *t, const struct task *how);
