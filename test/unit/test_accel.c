// SPDX-License-Identifier: Apache-2.0
/* test_accel.c -- how a guest that hangs or fails under KVM is found out, without KVM. */
#include <stdlib.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "vmm/accel.h"
#include "vmm/vmm.h"

#include "check.h"

static int works(void)
{
	return 0;
}

static int refuses(void)
{
	return 1;
}

static int crashes(void)
{
	abort();
}

static int hangs(void)
{
	return pause();
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	int64_t before = clock_ms();
	CHECK(accel_probe(t, works, 5000));
	CHECK(!accel_probe(t, refuses, 5000));
	CHECK(!accel_probe(t, crashes, 5000));
	CHECK(!accel_probe(t, hangs, 100));
	CHECK(clock_ms() - before < 4000);

	CHECK(streq(vmm_accel(t, "tcg"), "tcg") && streq(vmm_accel(t, "kvm"), "kvm"));
	CHECK(!vmm_accel(t, "warp") && t->code == INVALID_VALUE);
	task_forgive(t);
	const char *chosen = vmm_accel(t, "auto");
	CHECK(chosen && (streq(chosen, "tcg") || streq(chosen, "kvm")));
	CHECK(clock_ms() - before < 10000);
	talloc_free(t);
	return 0;
}
