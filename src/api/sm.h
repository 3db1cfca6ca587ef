// SPDX-License-Identifier: Apache-2.0
/* sm.h -- a record for each type of SR that there is. */
#pragma once

struct task;

int sm_open(struct task *);
