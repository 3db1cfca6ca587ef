// SPDX-License-Identifier: Apache-2.0
/* templates.h -- the templates that come with the system. */
#pragma once

struct task;

/* At the start: makes those that are missing, and those that an older version made becomes what this
 * version ships.  One that is up to date stays as it is, whatever a user has changed in it. */
int templates_open(struct task *);
