// SPDX-License-Identifier: Apache-2.0
/* cgroup.h -- a control group (version 2) for each VM, so that one whose QEMU was taken over cannot eat
 * up the host.
 *
 *     <the daemon's own group>/           as systemd delegates it (Delegate=)
 *         daemon/                         the daemon moves here, and its caretaker begins here: a
 *                                         group with children has no members
 *         vm-<uuid>/                      QEMU; memory.max, pids.max
 *
 * Where the host gives us no group there are no limits; the log says so once. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct task;

/* Divides the daemon's group.  To be called before the daemon starts a process that stays: one that
 * is left in the group would keep it from handing controllers on. */
void cgroup_open(void);
/* Puts the process, which has not begun to work, into the VM's group, and sets the limits.  memory:
 * bytes of the guest. */
void cgroup_place(struct task *, const char *vm_uuid, pid_t, uint64_t memory);
/* Removes the group of a VM whose process is gone. */
void cgroup_remove(const char *vm_uuid);
