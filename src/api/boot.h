// SPDX-License-Identifier: Apache-2.0
/* boot.h -- the VM's record as what the VMM is to start. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

/* On t.  Opens the kernel of a direct boot, which must lie in the state folder's boot/ or in a
 * folder that the configuration names (BOOTLOADER_FAILED [vm, why]), and a tap for each interface that
 * has a bridge. */
struct vmm_config *boot_config(struct task *, const struct VM_row *);
/* One drive or interface of it, as it would be at the next start, or as it is plugged now.  A
 * descriptor in the latter is the caller's to close. */
int boot_disk(struct task *, const struct VM_row *, const struct VBD_row *, struct vmm_disk *ret);
int boot_nic(struct task *, const struct VM_row *, const struct VIF_row *, struct vmm_nic *ret);
/* Whether the VM's disks come and go while it runs; on SATA they do not. */
bool boot_hot_plugs_disks(const struct VM_row *);
/* Closes what boot_config() opened. */
void boot_done(struct vmm_config *);
