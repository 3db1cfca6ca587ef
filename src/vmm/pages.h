// SPDX-License-Identifier: Apache-2.0
/* pages.h -- how the kernel keeps a process's memory. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct task;

/* Large pages again for the process's memory areas of at least that many bytes, piece by piece, while it runs
 * (process_madvise(2), MADV_COLLAPSE, Linux 6.1): each save splits them, and to write protect small ones takes
 * much longer, 15 ms a GiB, or 19 where they are zeros.  What the kernel refuses is left as it is.
 *
 * A save also makes small pages of zeros of memory that the guest has never used.  Linux from 6.18 on makes real large
 * ones of these, too, and then the guest takes all the memory that it has.  So where that is more than a quarter of
 * what the host has left, only those are made large of which half at least holds something; the pause of a guest that
 * uses little of its memory is longer then. */
void pages_collapse(struct task *, pid_t pid, int pidfd, uint64_t at_least);
