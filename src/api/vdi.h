// SPDX-License-Identifier: Apache-2.0
/* vdi.h -- disks for other files: new ones, and their contents for the handlers that stream them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct task;
struct VDI_row;

/* A new, empty volume in the SR, which the journal takes back, and a row for it, to be given names and
 * stored in the transaction that drops the journal's.  NULL: failed. */
struct VDI_row *vdi_make(struct task *, const char *sr_ref, int64_t size);
/* The same with all that the disk `from` shows, which nobody writes meanwhile. */
struct VDI_row *vdi_make_copy(struct task *, const struct VDI_row *from, const char *sr_ref);

/* The disk is busy with being written over from its beginning; `what` is for the error's text.  Not a
 * snapshot (VDI_READONLY), nor while a VM has it, nor while others are layers over it. */
struct VDI_row *vdi_begin_overwrite(struct task *, const char *vdi, const char *what);

/* The row says whether its volume is raw: for us, and in sm_config for users, who may change that. */
void vdi_set_format(struct VDI_row *, bool raw);

/* Bytes that the guest sees; -1 with HANDLE_INVALID. */
int64_t vdi_size(struct task *, const char *vdi);
/* The whole disk as raw bytes to a descriptor, behind a task of its own.  VDI_IN_USE while a running VM
 * writes it. */
int vdi_export_raw(struct task *, const char *vdi, int out);
/* Raw bytes onto the disk, from its beginning; length 0: until the stream ends.  Onto what
 * vdi_begin_overwrite() takes. */
int vdi_import_raw(struct task *, const char *vdi, int in, uint64_t length);
