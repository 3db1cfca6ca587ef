// SPDX-License-Identifier: Apache-2.0
/* log.h -- lines for the operator: one event a line, past tense, key=value. */
#pragma once

#include <stddef.h>

struct task;

enum { LOG_MOMENT = 32 };
/* Now, UTC: 2026-01-31T12:34:56.789Z; its length. */
size_t log_moment(char to[LOG_MOMENT]);

/* Writes "<UTC time> <task name>[ <task ref>] <text>" to standard error in one write.  Control
 * characters are shown as \xNN, so that no name can forge a line.  t may be NULL.  A line about a
 * client of the network (t->peer) is short, and each kind is not written more often than
 * LOG_LINES_LIMIT has it. */
void log_line(const struct task *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Standard error is the file at path from now on, which is made if need be, and stays so as it
 * grows. */
int log_to_file(struct task *, const char *path);
/* If that file is large, it becomes path.old. */
void log_trim(struct task *);
