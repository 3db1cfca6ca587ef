// SPDX-License-Identifier: Apache-2.0
/* tpm.h -- a virtual TPM 2.0: the program swtpm, a process of its own beside each QEMU that has
 * one.
 *
 *     DIR/tpm/          root's: pid, qemu.log (what the program complained)
 *     DIR/tpm/state/    the VM's user's: tpm2-00.permall, all that the TPM remembers without power
 *
 * What a TPM knows besides while it has power, its registers, is in QEMU's stream when a VM's
 * memory is saved, and so is what it remembers: when the VM comes back, that takes the place of
 * the file's.
 *
 * swtpm writes that file beside the old one and renames it, so that whoever reads it finds the
 * whole of one moment.  What is read there is the guest's own and nothing but bytes to us. */
#pragma once

struct task;
struct vmm_config;

/* Writes what config->tpm remembers and starts the program; *ret_control is what QEMU talks to it by.
 * It ends when QEMU does. */
int tpm_start(struct task *, const struct vmm_config *, int *ret_control);

/* Only the file, for a VM that has no such program. */
int tpm_write(struct task *, const struct vmm_config *);

/* What the TPM of the VM in folder dir remembers now, in hex, on t; "" for nothing yet. */
const char *tpm_read(struct task *, const char *dir);

/* Ends the program if it is still there: one whose QEMU died before they had met waits for ever.  Its file
 * stays, until the folder is made right for the next process (folder.h). */
void tpm_end(const char *dir);
