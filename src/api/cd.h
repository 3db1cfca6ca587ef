// SPDX-License-Identifier: Apache-2.0
/* cd.h -- CD drives: VBDs of type CD, and the discs in them, VDIs of an SR that is only read. */
#pragma once

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

/* VDI_IS_NOT_ISO [vdi, type] when it is no disc. */
int cd_check_disc(struct task *, const char *vdi);
/* The drive as the VMM is to make it, with the disc that its row names. */
int cd_drive(struct task *, const struct VBD_row *, int bootindex, struct vmm_disk *ret);
/* How the guest names it: "sr0" is its first CD drive. */
const char *cd_device_name(struct task *, const struct VBD_row *);

/* The disc `vdi` was about to go into the drive or out of it: asks the VM what is in it, and the row
 * says so. */
int cd_settle(struct task *, const char *vbd, const char *vdi);

/* In a transaction: the record of the disc, or disk, goes, and CD drives and a snapshot's drives that hold it become
 * empty. */
int cd_lose_disc(struct task *, const char *vdi);
