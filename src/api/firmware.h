// SPDX-License-Identifier: Apache-2.0
/* firmware.h -- UEFI: which program a VM boots with, and the store of its variables.
 *
 * The store is one more disk of the VM, with a record and a volume like any other, so that it is switched
 * in the same instant, reverted, cloned and deleted with the others.  But no drive (VBD) holds it:
 * clients would take it for a disk of the guest.  VM.NVRAM_VDI, which is no part of the API, does. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

/* Before a start: a UEFI VM that has no store gets one, with the keys of secure boot if that is asked for (they
 * stay in it, whatever is asked for later), filled from the firmware's own template, in the
 * SR of its first disk, or the default one. */
int firmware_ensure(struct task *, const struct VM_row *);
/* What the VMM is told; BIOS unless HVM_boot_params:firmware is "uefi". */
int firmware_config(struct task *, const struct VM_row *, struct vmm_firmware *ret);
/* In a transaction: the store goes with its VM. */
int firmware_release(struct task *, const struct VM_row *);
