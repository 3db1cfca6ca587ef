// SPDX-License-Identifier: Apache-2.0
/* test_pages.c -- large pages are made of what a process has in memory, and not of what it has only looked at, where
 * that would be more than the host can spare. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "vmm/pages.h"
#include "unit/check.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { SKIPPED = 77, PAGE = 4096, LARGE = 2 << 20, PART = 64 << 20, OWN_MIB = 8 };
#define VAST (UINT64_C(1) << 40) /* more than any host has left; nobody reserves it */

/* A process with an area of so many bytes: PART of it written, PART mostly zeros, PART looked at, all in small pages;
 * nothing has touched the rest. */
struct other {
	pid_t pid;
	int pidfd;
};

static void fill(volatile unsigned char *p, size_t n, size_t step)
{
	for (size_t i = 0; i < n; i += step)
		p[i] = 1;
}

static void look_at(const volatile unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i += PAGE)
		(void)p[i];
}

static void live(uint64_t bytes, int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	unsigned char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED || prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0)
		_exit(1);
	p += LARGE - (uintptr_t)p % LARGE;
	fill(p, PART, PAGE);
	fill(p + PART, PART, LARGE);
	look_at(p + PART, 2 * PART);
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0); /* the kernel's own thread makes none of what is not advised */
	if (write(ready, "!", 1) == 1)
		pause();
	_exit(0);
}

static struct other born(uint64_t bytes)
{
	int pair[2];
	char byte;
	CHECK(pipe(pair) == 0);
	struct other o = { .pid = fork() };
	if (o.pid == 0)
		live(bytes, pair[1]);
	close(pair[1]);
	CHECK(read(pair[0], &byte, 1) == 1);
	close(pair[0]);
	o.pidfd = (int)syscall(SYS_pidfd_open, o.pid, 0);
	CHECK(o.pidfd >= 0);
	return o;
}

static void ended(struct other *o)
{
	kill(o->pid, SIGKILL);
	waitpid(o->pid, NULL, 0);
	close(o->pidfd);
}

/* MiB, all areas together. */
static long mib_of(struct task *t, const struct other *o, const char *what)
{
	char line[256];
	long kib = 0;
	FILE *f = fopen(str(t, "/proc/%d/smaps", (int)o->pid), "re");
	CHECK(f);
	while (fgets(line, sizeof line, f))
		kib += starts_with(line, what) ? strtol(line + strlen(what), NULL, 10) : 0;
	fclose(f);
	return kib >> 10;
}

/* Does this kernel make large pages at all? */
static bool can(void)
{
	unsigned char *p =
		mmap(NULL, 2 * LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	unsigned char *at = p + LARGE - (uintptr_t)p % LARGE;
	fill(at, LARGE, PAGE);
	bool made = madvise(at, LARGE, MADV_COLLAPSE) == 0;
	munmap(p, 2 * LARGE);
	return made && geteuid() == 0; /* of others: for root */
}

int main(void)
{
	struct task *t = task_new(NULL, "pages");
	if (!can()) {
		puts("skipped: there are no large pages to be had");
		talloc_free(t);
		return SKIPPED;
	}
	struct other vast = born(VAST), small = born(3 * PART + LARGE);
	long had = mib_of(t, &vast, "Rss:");
	CHECK(mib_of(t, &vast, "AnonHugePages:") == 0 && had < 64 + 1 + OWN_MIB);
	pages_collapse(t, vast.pid, vast.pidfd, PART);
	CHECK(mib_of(t, &vast, "AnonHugePages:") == 64 && mib_of(t, &vast, "Rss:") <= had + 2);
	pages_collapse(t, small.pid, small.pidfd, PART);
	CHECK(mib_of(t, &small, "AnonHugePages:") >= 128); /* those with little in them, too */
	ended(&vast);
	ended(&small);
	talloc_free(t);
	return 0;
}
