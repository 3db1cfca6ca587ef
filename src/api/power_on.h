// SPDX-License-Identifier: Apache-2.0
/* power_on.h -- starts that nobody asks for at the moment: after a guest's end, after the host's. */
#pragma once

#include <stdint.h>

struct task;

/* The guest ended by itself, and no call was waiting for that; how is the detail of VMM_EXITED.  Starts it again when actions_after_shutdown or
 * actions_after_crash say so; with a pause when it had not run for long. */
void power_on_after_end(struct task *, const char *vm, const char *how, int64_t ran_ms);
/* At the daemon's first start since the host booted: VMs with other_config:auto_poweron=true, when the
 * pool has it too. */
int power_on_after_boot(struct task *);
