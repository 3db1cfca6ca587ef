// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

/* ---- to wait by ---- */

int64_t clock_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void clock_wait(pthread_cond_t *c, pthread_mutex_t *lock, int64_t until)
{
	struct timespec ts = { .tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000 };
	pthread_cond_clockwait(c, lock, CLOCK_MONOTONIC, &ts);
}

double clock_exact_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* ---- of the day ---- */

static const _Atomic uint64_t no_step, *step = &no_step; /* in seconds, as the file has it */

int64_t clock_day_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	int64_t ahead = (int64_t)le64toh(atomic_load(step));
	return (ts.tv_sec + ahead) * 1000000000 + ts.tv_nsec;
}

int64_t clock_day_s(void)
{
	return clock_day_ns() / 1000000000;
}

int64_t clock_files_s(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME_COARSE, &ts); /* from which files get their times */
	return ts.tv_sec;
}

int clock_day_from(struct task *t, const char *path)
{
	struct stat st;
	FD_SCOPE int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, path);
	if (st.st_size != sizeof *step)
		return fail(t, INVALID_VALUE, "test-clock", str(t, "%s: not of 8 bytes", path));
	void *at = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return task_fail_errno(t, errno, path);
	step = at;
	return 0;
}
