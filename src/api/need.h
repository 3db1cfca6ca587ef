// SPDX-License-Identifier: Apache-2.0
/* need.h -- does somebody need a disk as it is?
 *
 * A disk may be in use in more ways than by a drive: it is a suspended VM's memory, or a checkpoint's; it is the store
 * of a VM's UEFI variables.  Each place that may write, resize, remove, attach or unplug a disk, or change how it is
 * opened, asks here; need.c has the table of who stands against what. */
#pragma once

#include "model/model.h"

struct task;

enum need_deed {
	NEED_READ,          /* its content leaves: it must not change meanwhile */
	NEED_LAYER,         /* a layer comes over it */
	NEED_RESIZE,        /* ... while no process has it */
	NEED_RESIZE_ONLINE, /* ... by the QEMU of the VM that writes it */
	NEED_ATTACH, /* a VM gets it as a disk; other drives are vbd_check_free()'s business */
	NEED_WRITE,  /* other content, or other fields that say how it is opened */
	NEED_REMOVE,
	NEED_UNPLUG, /* its SR goes away for a while */
};

/* The drive's VM has its disk: it is attached, or comes back in a moment, for a VM that reboots is without a process
 * in between. */
bool need_holds(struct task *, const struct VBD_row *);

/* VDI_IN_USE [vdi, what] when somebody needs it otherwise; what: the word for the error. */
int need_check(struct task *, const struct VDI_row *, enum need_deed, const char *what);
