// SPDX-License-Identifier: Apache-2.0
/* devices.h -- the machine as its guest finds it: which device stands where.
 *
 *     bus pcie.0    01       VGA
 *                   02       USB, with a tablet
 *                   03       serial ports by name: the guest agent's
 *                   04       random numbers
 *                   05       root ports of network interfaces 0..6, one function each
 *                   08..0b   root ports of disks 0..27, eight functions a slot
 *                   1f.2     AHCI, ports 0..5: CD drives, and disks of model VMM_SATA
 *
 * A device is described once, for QEMU's command line and for plugging alike. */
#pragma once

#include <jansson.h>

struct args;
struct task;
struct vmm_config;
struct vmm_disk;
struct vmm_nic;

/* The arguments of device_add; on the task. */
json_t *device_disk(struct task *, const struct vmm_disk *);
json_t *device_nic(struct task *, const struct vmm_nic *);
/* Those of netdev_add.  tap: how QEMU knows the descriptor, a number or a name; NULL: user-mode. */
json_t *device_netdev(struct task *, const struct vmm_nic *, const char *tap);
/* The id of an interface's other half. */
const char *device_netdev_id(struct task *, const char *nic);
/* INVALID_DEVICE [position] when there is no such place. */
int device_check_disk(struct task *, const struct vmm_disk *);

/* All devices that every VM has, then those of the configuration. */
int devices_args(struct task *, struct args *, const struct vmm_config *);
