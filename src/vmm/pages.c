// SPDX-License-Identifier: Apache-2.0
#include "vmm/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum {
	PIECE = 64 << 20,
	SCANNED = 1 << 30, /* bytes, with the process's memory lock held */
	HUGE = 2 << 20,
	ENOUGH = HUGE / 2,
	PASSES = 3,
	REGIONS = 512,
	AREAS = 64,
	PART = 4 /* of what the host has left: a quarter */
};

enum outcome {
	WHOLE,
	PARTLY, /* a page was in use just then, or there was no room for a large one */
	NEVER,  /* the process is gone, or not ours */
};

static const char *const words[] = { "whole", "partly", "not" };

/* The kernel takes the process's memory lock for a piece at a time, and does what it can of it: the error is that of
 * the last page that stayed small. */
static enum outcome collapse(int pidfd, uint64_t at, uint64_t n)
{
	struct iovec v = { (void *)(uintptr_t)at, (size_t)n };
	if (syscall(SYS_process_madvise, pidfd, &v, 1UL, MADV_COLLAPSE, 0U) >= 0)
		return WHOLE;
	return errno == ESRCH || errno == EPERM || errno == ENOSYS ? NEVER : PARTLY;
}

/* ---- which are to be made ---- */

/* ioctl(2) of /proc/PID/pagemap, PAGEMAP_SCAN (Linux 6.7: Documentation/admin-guide/mm/pagemap.rst). */
struct region {
	uint64_t start, end, categories;
};
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, any_of, returned;
};
#define SCAN _IOWR('f', 16, struct scan)
enum { IS_PRESENT = 1 << 3, IS_ZEROS = 1 << 5, IS_HUGE = 1 << 6 };

struct making {
	int pidfd;
	uint64_t page;     /* the large page that is looked at, */
	uint64_t small;    /* and bytes of it in small pages that hold something */
	uint64_t from, to; /* large pages before it that are to be made, side by side */
	enum outcome worst;
};

static void make(struct making *m)
{
	enum outcome o = m->from < m->to ? collapse(m->pidfd, m->from, m->to - m->from) : WHOLE;
	m->worst = o > m->worst ? o : m->worst;
	m->from = m->to = 0;
}

/* One that is zeros for the most part stays as it is. */
static void settle(struct making *m)
{
	if (m->small < ENOUGH)
		return;
	if (m->to != m->page || m->to - m->from >= PIECE) {
		make(m);
		m->from = m->page;
	}
	m->to = m->page + HUGE;
}

/* These are small, and hold something. */
static void note(struct making *m, uint64_t start, uint64_t end)
{
	for (uint64_t next; start < end; start = next) {
		uint64_t page = start / HUGE * HUGE;
		next = page + HUGE < end ? page + HUGE : end;
		if (page != m->page) {
			settle(m);
			m->page = page;
			m->small = 0;
		}
		m->small += next - start;
	}
}

/* -1: the kernel does not tell. */
static int look(struct task *t, int pagemap, uint64_t from, uint64_t to, struct making *m)
{
	struct region r[REGIONS];
	while (from < to && task_check(t) == 0) {
		struct scan s = { .size = sizeof s,
				  .start = from,
				  .end = to - from < SCANNED ? to : from + SCANNED,
				  .vec = (uintptr_t)r,
				  .vec_len = REGIONS,
				  .mask = IS_PRESENT | IS_ZEROS | IS_HUGE,
				  .inverted = IS_ZEROS | IS_HUGE,
				  .returned = IS_PRESENT };
		int n = ioctl(pagemap, SCAN, &s);
		if (n < 0 || s.walk_end <= from)
			return -1;
		for (int i = 0; i < n; i++)
			note(m, r[i].start, r[i].end);
		from = s.walk_end;
	}
	settle(m);
	make(m);
	return 0;
}

/* ---- areas ---- */

/* Each that the kernel makes, whatever is in it. */
static enum outcome collapse_all(struct task *t, int pidfd, uint64_t from, uint64_t to)
{
	enum outcome worst = WHOLE;
	for (uint64_t n; from < to && worst != NEVER && task_check(t) == 0; from += n) {
		n = to - from < PIECE ? to - from : PIECE;
		enum outcome o = collapse(pidfd, from, n);
		worst = o > worst ? o : worst;
	}
	return worst;
}

struct area {
	uint64_t from, to; /* whole large pages */
};

struct memory {
	pid_t pid;
	int pidfd, pagemap;
	bool sparing;
	size_t n;
	struct area areas[AREAS];
};

static enum outcome collapse_area(struct task *t, const struct memory *m, const struct area *a)
{
	struct making k = { .pidfd = m->pidfd };
	if (m->sparing && look(t, m->pagemap, a->from, a->to, &k) == 0)
		return k.worst;
	return collapse_all(t, m->pidfd, a->from, a->to);
}

/* What is whole already costs next to nothing the second time. */
static enum outcome collapse_thoroughly(struct task *t, const struct memory *m,
					const struct area *a)
{
	enum outcome o = PARTLY;
	for (int pass = 0; pass < PASSES && o == PARTLY; pass++)
		o = collapse_area(t, m, a);
	return o;
}

static int find_areas(struct task *t, uint64_t at_least, struct memory *m)
{
	char line[512], rights[8];
	uint64_t from, to, inode;
	FILE *f = fopen(str(t, "/proc/%d/maps", (int)m->pid), "re");
	if (!f)
		return -1;
	while (m->n < AREAS && fgets(line, sizeof line, f))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64, &from, &to, rights,
			   &inode) == 4 &&
		    to - from >= at_least && inode == 0 && rights[0] == 'r' && rights[1] == 'w')
			m->areas[m->n++] =
				(struct area){ (from + HUGE - 1) / HUGE * HUGE, to / HUGE * HUGE };
	fclose(f);
	return 0;
}

/* ---- how much there is ---- */

/* A line of a file of /proc, in KiB; 0: it is not there. */
static uint64_t kib_in(const char *path, const char *name)
{
	char line[256];
	unsigned long long kib = 0;
	FILE *f = fopen(path, "re");
	while (f && !kib && fgets(line, sizeof line, f))
		if (starts_with(line, name))
			sscanf(line + strlen(name), ": %llu", &kib);
	if (f)
		fclose(f);
	return kib;
}

/* Could it take more, should all of it be made large, than a good part of what the host has left? */
static bool is_short(struct task *t, const struct memory *m)
{
	uint64_t all = 0, has = kib_in(str(t, "/proc/%d/status", (int)m->pid), "VmRSS");
	for (size_t i = 0; i < m->n; i++)
		all += (m->areas[i].to - m->areas[i].from) >> 10;
	return all > has && all - has > kib_in("/proc/meminfo", "MemAvailable") / PART;
}

void pages_collapse(struct task *t, pid_t pid, int pidfd, uint64_t at_least)
{
	struct memory m = { .pid = pid, .pidfd = pidfd };
	enum outcome worst = WHOLE;
	int64_t begin = clock_ms();
	if (find_areas(t, at_least, &m) < 0)
		return;
	FD_SCOPE int pagemap = open(str(t, "/proc/%d/pagemap", (int)pid), O_RDONLY | O_CLOEXEC);
	m.pagemap = pagemap;
	m.sparing = is_short(t, &m);
	for (size_t i = 0; i < m.n; i++) {
		enum outcome o = collapse_thoroughly(t, &m, &m.areas[i]);
		worst = o > worst ? o : worst;
	}
	log_line(t, "memory collapsed pid=%d how=%s%s ms=%lld", (int)pid, words[worst],
		 m.sparing ? " but-for=zeros" : "", (long long)(clock_ms() - begin));
}
