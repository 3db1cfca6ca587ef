// SPDX-License-Identifier: Apache-2.0
/* logs.h -- what guests write to their serial ports, QEMU to its log, and the daemon to its own, is
 * kept within bounds. */
#pragma once

struct task;

/* Each log larger than a few MiB: its end becomes <log>.old, and it starts afresh.  QEMU appends
 * to it meanwhile; a line written at that very moment may be lost. */
void logs_trim(struct task *);
