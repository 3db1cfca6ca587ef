// SPDX-License-Identifier: Apache-2.0
/* cpu.h -- the CPU that a guest has, told so that another QEMU can give it the same.
 *
 *     {"model": "base",                                                 a CPU without any feature
 *      "props": {"avx2": true, "la57": false, "family": 6, ...},        all features, and what else it is called by
 *      "more":  {"phys-bits": 40, "level": 13, ...}}                    what QEMU's list of them leaves out
 *
 * A VM starts with the model `max` or `host`: all that this QEMU and this host can give.  Another version, or another
 * host, gives something else by the same name; a guest whose memory comes back there has looked at its CPU long
 * before, and dies of what is missing.  So this is kept with its memory, and then given to QEMU to the letter.
 *
 * (QEMU: query-cpu-model-expansion, type static.)  Nobody vouches for what is in it: a guest may have taken over its
 * QEMU. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct args;
struct list;
struct qmp;
struct task;

/* That of the VM whose QEMU this is, on t. */
int cpu_ask(struct task *, struct qmp *, json_t **ret);

/* Is it of this form, and nothing in it but names, numbers and short texts?  -1: what is wrong. */
int cpu_check(struct task *, const json_t *cpu);

/* The options that give it to the VM, which has to be of this form. */
void cpu_args(struct args *, const json_t *cpu);

/* Adds the names of features that it has, and that are not true in `host`, the same list of another CPU; and
 * "phys-bits=N", where its addresses are longer than those of a host of so many bits. */
void cpu_compare(const void *ctx, const json_t *cpu, const json_t *host, unsigned phys_bits,
		 struct list *ret);
