// SPDX-License-Identifier: Apache-2.0
/* vdi_transfer.h -- a disk's content to a descriptor and from one, for the handlers that stream it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/image.h"

struct task;

struct vdi_export {
	const char *vdi;
	const struct image_format *format;
	struct outlet *out;
};

/* The whole disk, behind a task of its own, which has ended before the client can have the image's last byte:
 * that is for the caller to write.  VDI_IN_USE while a running VM writes it; VDI_TOO_LARGE. */
int vdi_export(struct task *, struct vdi_export *);

struct vdi_import {
	const char *vdi; /* what is written over, as vdi_begin_overwrite() takes it; or NULL_REF: */
	const char *sr;  /* where a new disk, "Imported VDI", is made */
	const struct image_format *format;
	struct image_source source;

	const char *result; /* the disk */
	bool touched;       /* set when the disk's content is undefined after a failure */
};

/* An image onto the disk, from its beginning, or as a new one.  One that is refused (IMPORT_ERROR) has changed
 * nothing; of a new disk nothing is left after any failure. */
int vdi_import(struct task *, struct vdi_import *);
