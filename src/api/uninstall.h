// SPDX-License-Identifier: Apache-2.0
/* uninstall.h -- VMs and snapshots deleted with all that is theirs: the disks at drives that carry the key `owner`,
 * the memory of suspended ones, and, if wanted, their snapshots with theirs.
 *
 *     doomed_add(t, &d, vm, true);
 *     doomed_spare(t, &d);                 ... what others use, too
 *     doomed_destroy(t, &d); */
#pragma once

#include "model/model.h"

struct task;

struct doomed {
	struct list vms, vdis; /* refs */
};

void doomed_add(struct task *, struct doomed *, const struct VM_row *, bool with_snapshots);
void doomed_spare(struct task *, struct doomed *);
/* A call of its own, on t: all of them go in one transaction, running VMs too, or none does. */
int doomed_destroy(struct task *, struct doomed *);
/* The same for VMs that are halted, of which nobody else knows: nothing is asked, and it is no call. */
int doomed_delete(struct task *, const struct doomed *);
