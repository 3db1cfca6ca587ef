// SPDX-License-Identifier: Apache-2.0
#include "vmm/pages.h"

#include <errno.h>
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

enum { PIECE = 64 << 20, HUGE = 2 << 20, PASSES = 3 };

enum outcome {
	WHOLE,
	PARTLY, /* a page was in use just then, or never written, or there was no room for a large one */
	NEVER, /* the process is gone, or not ours */
};

/* The kernel takes the process's memory lock for a piece at a time, and does what it can of it: the error is that of
 * the last page that stayed small. */
static enum outcome collapse(int pidfd, uint64_t at, uint64_t n)
{
	struct iovec v = { (void *)(uintptr_t)at, (size_t)n };
	if (syscall(SYS_process_madvise, pidfd, &v, 1UL, MADV_COLLAPSE, 0U) >= 0)
		return WHOLE;
	return errno == ESRCH || errno == EPERM || errno == ENOSYS ? NEVER : PARTLY;
}

static enum outcome collapse_area(struct task *t, int pidfd, uint64_t from, uint64_t to)
{
	enum outcome worst = WHOLE;
	from = (from + HUGE - 1) / HUGE * HUGE;
	for (uint64_t n; from < to && worst != NEVER && task_check(t) == 0; from += n) {
		n = to - from < PIECE ? to - from : PIECE;
		enum outcome o = collapse(pidfd, from, n);
		worst = o > worst ? o : worst;
	}
	return worst;
}

/* What is whole already costs next to nothing the second time. */
static enum outcome collapse_thoroughly(struct task *t, int pidfd, uint64_t from, uint64_t to)
{
	enum outcome o = PARTLY;
	for (int pass = 0; pass < PASSES && o == PARTLY; pass++)
		o = collapse_area(t, pidfd, from, to);
	return o;
}

static const char *const words[] = { "whole", "partly", "not" };

void pages_collapse(struct task *t, pid_t pid, int pidfd, uint64_t at_least)
{
	char line[512], rights[8];
	uint64_t from, to, inode;
	enum outcome worst = WHOLE;
	FILE *f = fopen(str(t, "/proc/%d/maps", (int)pid), "re");
	if (!f)
		return;
	int64_t begin = clock_ms();
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64, &from, &to, rights,
			   &inode) == 4 &&
		    to - from >= at_least && inode == 0 && rights[0] == 'r' && rights[1] == 'w') {
			enum outcome o = collapse_thoroughly(t, pidfd, from, to);
			worst = o > worst ? o : worst;
		}
	fclose(f);
	log_line(t, "memory collapsed pid=%d how=%s ms=%lld", (int)pid, words[worst],
		 (long long)(clock_ms() - begin));
}
