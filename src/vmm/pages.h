// SPDX-License-Identifier: Apache-2.0
/* pages.h -- how the kernel keeps a process's memory. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct task;

/* Large pages again for the process's memory areas of at least that many bytes, piece by piece, while it runs
 * (process_madvise(2), MADV_COLLAPSE, Linux 6.1): each save splits them, and to write protect small ones takes
 * several times as long.  What the kernel refuses is left as it is. */
void pages_collapse(struct task *, pid_t pid, int pidfd, uint64_t at_least);
