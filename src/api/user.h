// SPDX-License-Identifier: Apache-2.0
/* user.h -- the one object of class user: root, who may log in without being a subject. */
#pragma once

struct task;

int user_open(struct task *);
/* Its ref, on t. */
const char *user_root(struct task *);
