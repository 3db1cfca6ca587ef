// SPDX-License-Identifier: Apache-2.0
/* fake_memory.h -- what a VM without a guest has in its memory: a few pages, in QEMU's form. */
#pragma once

#include <stdint.h>

struct task;

#define FAKE_MACHINE "pc-fake-1.0"

/* A whole migration stream (QEMU: docs/devel/migration/main.rst) into the socket. */
int fake_memory_send(struct task *, int to);
/* Is there a stream of this machine in the file? */
int fake_memory_load(struct task *, int file, uint64_t at);
