// SPDX-License-Identifier: Apache-2.0
/* probe.h -- what the host's QEMU can, before a VM relies on it.
 *
 * A QEMU without a machine is asked, which takes a tenth of a second; what it said is remembered until the program is
 * another one, or an accelerator is asked for the first time. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct list;
struct task;

/* Has it a machine of that type? */
int probe_knows_machine(struct task *, const char *accel, const char *machine, bool *ret);

/* The names of the CPU's features (vmm/cpu.h) that no VM can have here; none: it can be had. */
int probe_missing_features(struct task *, const char *accel, const json_t *cpu, struct list *ret);
