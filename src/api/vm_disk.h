// SPDX-License-Identifier: Apache-2.0
/* vm_disk.h -- a new disk for a VM, with its drive: both are there, or neither is. */
#pragma once

#include <stdint.h>

struct call;

struct vm_disk {
	const char *vm, *sr;    /* refs */
	const char *userdevice; /* as VBD.create takes it */
	int64_t size;           /* bytes */
};

extern const struct call call_vm_add_disk; /* its arguments: struct vm_disk */
