// SPDX-License-Identifier: Apache-2.0
/* accel.h -- whether this host's /dev/kvm can be relied on; vmm.h has what others ask. */
#pragma once

#include <stdbool.h>

struct task;

/* Runs guest() in a process of its own, that is killed after ms, and logs how it went.  True: it
 * returned 0 in time.  guest makes nothing but system calls. */
bool accel_probe(struct task *, int (*guest)(void), int ms);
