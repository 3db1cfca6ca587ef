// SPDX-License-Identifier: Apache-2.0
/* merge.h -- layers that become one in a running QEMU, by its block jobs.
 *
 *     up                    block-stream   into a frozen layer, from its side (disks.h): the disk is free
 *                                          meanwhile
 *     down, below another   block-commit   that other layer's header is rewritten at the end
 *     down, from the top    block-commit   an active one: when both layers show the same, the guest's I/O
 *                                          waits until the job is finished or cancelled
 *
 * The job stays in QEMU's list when it is over, with its outcome: that is what a daemon that comes
 * anew is told.  A stream's result is in QEMU's memory when the job says that it is over, and in the file when
 * the side is closed. */
#pragma once

#include <stdbool.h>

struct qmp;
struct task;
struct vmm_merge;
enum vmm_merge_state;

/* As in struct vmm_driver. */
int merge_run(struct task *, struct qmp *, const struct vmm_merge *);
int merge_state(struct task *, struct qmp *, const struct vmm_merge *, bool recorded,
		enum vmm_merge_state *ret);
int merge_close(struct task *, struct qmp *, const struct vmm_merge *);
