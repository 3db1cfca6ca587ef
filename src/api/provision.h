// SPDX-License-Identifier: Apache-2.0
/* provision.h -- the disks that a template asks for: other_config:disks, as XenServer writes it.
 *
 *     <provision>
 *       <disk device="0" size="10737418240" sr="" bootable="true" type="system"/>
 *     </provision>
 *
 * device is the drive's position, size in bytes, sr the uuid of an SR or "" for the pool's default one.
 * bootable may be left out (false), type too (user).  Users write this text, and it comes with
 * imported VMs: it is read without entities, DTD or network, and within limits. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;

enum { PROVISION_BYTES = 64 << 10 }; /* longest text */

struct provision_disk {
	const char *device;
	int64_t size;
	const char *sr;
	bool bootable;
	const char *type; /* of the VDI */
};

struct provision {
	size_t n;
	struct provision_disk *v;
};

/* INVALID_VALUE [other_config:disks, what is wrong]; no more disks than a VM has places for. */
int provision_read(struct task *, const char *xml, struct provision *ret);
/* In one line, on ctx. */
char *provision_write(const void *ctx, const struct provision *);
/* The same text with all disks in the SR of that uuid; NULL: failed. */
const char *provision_move(struct task *, const char *xml, const char *sr_uuid);
