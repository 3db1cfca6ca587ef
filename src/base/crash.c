// SPDX-License-Identifier: Apache-2.0
#include "base/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

static struct countdown {
	const char *variable;
	_Atomic int left; /* -1: the environment was not read yet; 0: never */
} any = { "STILLFRAME_CRASH_AT", -1 }, standing = { "STILLFRAME_CRASH_STANDING", -1 };

static void count(struct countdown *c)
{
	int n = atomic_load(&c->left);
	if (n < 0) {
		const char *at = getenv(c->variable);
		n = at ? atoi(at) : 0;
		atomic_store(&c->left, n);
	}
	if (n > 0 && atomic_fetch_sub(&c->left, 1) == 1)
		raise(SIGKILL);
}

void crash_after(int n)
{
	atomic_store(&any.left, n);
}

void crash_point(void)
{
	count(&any);
}

void crash_point_standing(void)
{
	count(&standing);
	count(&any);
}
