// SPDX-License-Identifier: Apache-2.0
/* full.h -- guests that stand still since their storage is full, until there is room again.
 *
 * QEMU stops such a guest at the write that found no room, and tries that write again when it goes on: the
 * guest sees no error.  The VMM's status tells these guests from those that somebody paused, also after
 * the daemon's restart. */
#pragma once

#include <stdbool.h>

struct task;

/* The guest of the VM, whose row says Paused, has stopped for want of room on `disk` (its id in the VMM, ""
 * for not known).  told: who reads messages knows of it. */
void full_stopped(struct task *, const char *vm_ref, const char *disk, bool told);
/* Lets go on the guests whose storage has room again; to be called every few seconds. */
void full_look(struct task *);
void full_close(void);
