// SPDX-License-Identifier: Apache-2.0
/* subject.h -- accounts of the host, other than root, that may log in. */
#pragma once

#include "api/role.h"

struct subject_row;
struct task;

/* The one with the account's name; NULL: none. */
const struct subject_row *subject_of(struct task *, const char *user);
/* The strongest that it has; ROLES: none. */
enum role subject_role(struct task *, const struct subject_row *);
