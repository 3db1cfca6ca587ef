// SPDX-License-Identifier: Apache-2.0
#include "base/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Atomic int left = -1; /* -1: the environment was not read yet; 0: never */

void crash_after(int n)
{
	atomic_store(&left, n);
}

void crash_point(void)
{
	int n = atomic_load(&left);
	if (n < 0) {
		const char *at = getenv("STILLFRAME_CRASH_AT");
		n = at ? atoi(at) : 0;
		atomic_store(&left, n);
	}
	if (n > 0 && atomic_fetch_sub(&left, 1) == 1)
		raise(SIGKILL);
}
