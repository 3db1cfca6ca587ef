// SPDX-License-Identifier: Apache-2.0
/* console.h -- the consoles of running VMs, a screen (rfb) and a serial port (vt100) each: their
 * rows, and what is behind them. */
#pragma once

#include "model/model.h"

struct task;

/* In a transaction: the rows that a running VM lacks.  guest_mark_halted() deletes them. */
int consoles_make(struct task *, const struct VM_row *);

/* In a transaction: their addresses are the host's present one. */
int consoles_relocate(struct task *);

/* The VM's console of that protocol; VM_BAD_POWER_STATE when it does not run. */
struct console_row *vm_console(struct task *, const struct VM_row *, enum console_protocol);
/* What a uuid or a ref (the other is NULL) names: a console, or a VM, which stands for its
 * screen. */
struct console_row *console_named(struct task *, const char *uuid, const char *ref);

/* A connection to the console, both ways, ended with console_leave().  To a screen there are any
 * number of them, to a serial port one at a time: OTHER_OPERATION_IN_PROGRESS. */
int console_enter(struct task *, const struct console_row *, int *ret_fd);
void console_leave(struct task *, const struct console_row *, int fd);

/* What the screen of the console's VM shows, as a PPM into the file. */
int console_picture(struct task *, const struct console_row *, int file);
