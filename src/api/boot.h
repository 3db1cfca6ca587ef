// SPDX-License-Identifier: Apache-2.0
/* boot.h -- the VM's record as what the VMM is to start. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct image;
struct task;

/* On t.  The drives and interfaces that are attached, and the kernel of a direct boot, which must
 * lie in the state folder's boot/ or in a folder that the configuration names (BOOTLOADER_FAILED
 * [vm, why]); it is opened, and so is a tap for each interface that has a bridge.  What the VMM
 * needs of the host was found to be there.  image: of the memory that the VM comes back from,
 * stays the caller's; NULL: it boots. */
struct vmm_config *boot_config(struct task *, const struct VM_row *, const struct image *image);
/* Would boot_config() succeed, and the VMM find what it needs?  Nothing is made or changed.
 * Before a guest is given up for what comes after it.  vm: as it will be started, and by whose
 * name it is known; devices: whose drives, interfaces, UEFI store and TPM it will have, a
 * checkpoint's own before a revert.  Of one that boots all are looked at, since a start attaches
 * them.  The caller holds the layers against merges. */
int boot_check(struct task *, const struct VM_row *vm, const struct VM_row *devices,
	       const struct image *image);
/* One drive or interface of it, as it would be at the next start, or as it is plugged now.  A
 * descriptor in the latter is the caller's to close. */
int boot_disk(struct task *, const struct VM_row *, const struct VBD_row *, struct vmm_disk *ret);
int boot_nic(struct task *, const struct VM_row *, const struct VIF_row *, struct vmm_nic *ret);
/* Whether the VM's disks come and go while it runs; on SATA they do not. */
bool boot_hot_plugs_disks(const struct VM_row *);
/* Closes what boot_config() opened. */
void boot_done(struct vmm_config *);
