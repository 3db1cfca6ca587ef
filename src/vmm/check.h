// SPDX-License-Identifier: Apache-2.0
/* check.h -- would a VM start?  What its start opens and asks of the host is looked at, and left
 * as it is. */
#pragma once

struct task;
struct vmm_config;

/* As check() of struct vmm_driver. */
int check_start(struct task *, const struct vmm_config *);
