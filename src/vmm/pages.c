// SPDX-License-Identifier: Apache-2.0
#include "vmm/pages.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { PIECE = 64 << 20, HUGE = 2 << 20, REFUSALS = 3 };

/* The kernel takes the process's memory lock for a piece at a time.  false: it refuses. */
static bool collapse(int pidfd, uint64_t at, uint64_t n)
{
	struct iovec v = { (void *)(uintptr_t)at, (size_t)n };
	return syscall(SYS_process_madvise, pidfd, &v, 1UL, MADV_COLLAPSE, 0U) >= 0;
}

static void collapse_area(struct task *t, int pidfd, uint64_t from, uint64_t to)
{
	int refused = 0;
	from = (from + HUGE - 1) / HUGE * HUGE;
	for (uint64_t n; from < to && refused < REFUSALS && task_check(t) == 0; from += n) {
		n = to - from < PIECE ? to - from : PIECE;
		refused = collapse(pidfd, from, n) ? 0 : refused + 1;
	}
}

void pages_collapse(struct task *t, pid_t pid, int pidfd, uint64_t at_least)
{
	char line[512], rights[8];
	uint64_t from, to, inode;
	FILE *f = fopen(str(t, "/proc/%d/maps", (int)pid), "re");
	if (!f)
		return;
	int64_t begin = clock_ms();
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64, &from, &to, rights,
			   &inode) == 4 &&
		    to - from >= at_least && inode == 0 && rights[0] == 'r' && rights[1] == 'w')
			collapse_area(t, pidfd, from, to);
	fclose(f);
	log_line(t, "memory collapsed pid=%d ms=%lld", (int)pid, (long long)(clock_ms() - begin));
}
