// SPDX-License-Identifier: Apache-2.0
/* outcome.h -- how a call on a task came out, with what it said when that is not as it should be. */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/task.h"

/* The task failed with this code, and its error says this; it is forgiven. */
static inline bool failed(struct task *t, enum code code, const char *part)
{
	const char *error = task_error(t);
	bool right = t->code == code && strstr(error, part);
	if (!right)
		fprintf(stderr, "wanted %s with \"%s\", got %s\n", code_rows[code].name, part,
			error);
	task_forgive(t);
	return right;
}

static inline bool good(struct task *t, bool result)
{
	if (!result)
		fprintf(stderr, "%s\n", task_error(t));
	return result;
}
#define GOOD(call) CHECK(good(t, (call) == 0))
