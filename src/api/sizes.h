// SPDX-License-Identifier: Apache-2.0
/* sizes.h -- how many bytes disks and SRs take, while guests write them.
 *
 * Who makes or changes a volume says so in its row (storage_refresh()).  What a guest writes is seen by
 * looking now and then. */
#pragma once

struct task;

/* Looks at what running guests write and at what has changed since the last time; to be called every
 * few seconds. */
void sizes_look(struct task *);
/* Looks at the disks of one VM, whose guest has ended. */
void sizes_look_at(struct task *, const char *vm_ref);
