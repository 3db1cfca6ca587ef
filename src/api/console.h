// SPDX-License-Identifier: Apache-2.0
/* console.h -- the serial port of a running VM. */
#pragma once

struct task;

/* A connection to the VM's first serial port, both ways, which the caller closes and then says
 * vm_serial_done().  One at a time: OTHER_OPERATION_IN_PROGRESS. */
int vm_serial(struct task *, const char *vm, int *ret_fd);
void vm_serial_done(struct task *, const char *vm);
