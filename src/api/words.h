// SPDX-License-Identifier: Apache-2.0
/* words.h -- failures and objects in words, for people. */
#pragma once

struct task;

/* "uuid (name)" of an object of any class; "uuid" when it has no name; NULL when there is none.  On t. */
char *ref_shown(struct task *, const char *ref);

/* The task's failure on lines: what it means and what to do, then a line for each parameter, then for scripts the code
 * and the bare parameters, under the names that XenServer's own tools give them.  On t. */
const char *failure_lines(struct task *);
/* The same as one line, the code in brackets at its end. */
const char *failure_line(struct task *);
