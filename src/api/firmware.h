// SPDX-License-Identifier: Apache-2.0
/* firmware.h -- UEFI: which program a VM boots with, and the store of its variables.
 *
 * The store is one more disk of the VM, with a record and a volume like any other, so that it is switched
 * in the same instant, reverted, cloned and deleted with the others.  But no drive (VBD) holds it:
 * clients would take it for a disk of the guest.  VM.NVRAM_VDI, which is no part of the API, does.
 *
 * What clients see is VM.NVRAM["EFI-variables"], as XenServer writes it (efivars.h): what the store held
 * when it was made, and then each time the VM has ended.  VM.NVRAM_stale says that the store may have
 * changed since.  A client that writes the field takes the VM's store away: the next start makes one with
 * what was written. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

/* Would a start of the VM, as its row is, boot by UEFI, and so open the store?  VM.NVRAM_open says whether its process
 * has. */
bool firmware_is_uefi(const struct VM_row *);
/* Before a start: a UEFI VM that has no store gets one, with the keys of secure boot if that is asked for (they
 * stay in it, whatever is asked for later), filled from the firmware's own template, in the
 * SR of its first disk, or the default one.  The variables in VM.NVRAM take the place of the template's. */
int firmware_ensure(struct task *, const struct VM_row *);
/* What the VMM is told; BIOS unless HVM_boot_params:firmware is "uefi".  store: the VM's, or that of a
 * checkpoint that it may go back to, which is only looked at. */
int firmware_config(struct task *, const struct VM_row *, const char *store,
		    struct vmm_firmware *ret);
/* Could firmware_ensure() make the store? */
int firmware_check(struct task *, const struct VM_row *);
/* In a transaction: the store goes with its VM. */
int firmware_release(struct task *, const struct VM_row *);

/* In a call that has no operation on the VM any more: a halted VM's variables are read into VM.NVRAM, if they may
 * have changed.  Ends within seconds, and never fails: what could not be read is logged. */
void firmware_note(struct task *, const char *vm_ref);
/* The same on a thread of its own; and for all VMs, at the start. */
void firmware_note_soon(struct task *, const char *vm_ref);
void firmware_note_all(void);
/* In the transaction that sets VM.NVRAM, vm having the new value: it is sound, and the store can go and goes. */
int firmware_check_variables(struct task *, struct VM_row *vm);
