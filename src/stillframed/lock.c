// SPDX-License-Identifier: Apache-2.0
#include "stillframed/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api/settings.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum owner { DAEMON, CARETAKER }; /* its byte */

static int fd = -1;

static int open_file(struct task *t)
{
	const char *path = str(t, "%s/lock", settings.state);
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? task_fail_errno(t, errno, path) : 0;
}

static struct flock byte_of(enum owner o)
{
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = o, .l_len = 1 };
}

static bool take(enum owner o)
{
	struct flock l = byte_of(o);
	return fcntl(fd, F_SETLK, &l) == 0;
}

/* 0: nobody.  Not above 0: somebody whose number is none here. */
static pid_t holder(enum owner o)
{
	struct flock l = byte_of(o);
	if (fcntl(fd, F_GETLK, &l) < 0 || l.l_type == F_UNLCK)
		return 0;
	return l.l_pid > 0 ? l.l_pid : -1;
}

/* Whoever had it then has it no more, within so many ms. */
static bool is_left(enum owner o, pid_t then, int ms)
{
	for (int64_t until = clock_ms() + ms; then && holder(o) == then;) {
		if (clock_ms() >= until)
			return false;
		delay_sleep(DELAY_LOCK_LOOK);
	}
	return true;
}

/* ---- the daemon ---- */

int lock_take(struct task *t)
{
	if (open_file(t) < 0)
		return -1;
	if (!take(DAEMON))
		return fail(t, INTERNAL_ERROR,
			    str(t, "%s: another stillframed is using this folder", settings.state));
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", getpid()) < 0)
		return task_fail_errno(t, errno, "lock");
	return 0;
}

/* Nothing is lost by its end: what it was at is done when the journal is replayed.  The descriptor
 * comes first: the number may be another process's by now. */
static void end(pid_t pid)
{
	FD_SCOPE int process = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (process >= 0 && holder(CARETAKER) == pid)
		syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
}

int lock_await_caretaker(struct task *t)
{
	pid_t pid = holder(CARETAKER);
	if (is_left(CARETAKER, pid, delay_ms(DELAY_CARETAKER_END)))
		return 0;
	log_line(t, "the caretaker of the daemon before is ended pid=%d", (int)pid);
	end(pid);
	if (is_left(CARETAKER, pid, delay_ms(DELAY_KILL)))
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t, "%s/lock: process %d, of the stillframed before, does not end",
			settings.state, (int)pid));
}

void lock_give_back(void)
{
	fd_close(&fd);
}

/* ---- its caretaker ---- */

/* One whose daemon died as it was made may have it for a moment. */
int lock_take_as_caretaker(struct task *t)
{
	if (open_file(t) < 0)
		return -1;
	for (int64_t until = clock_ms() + delay_ms(DELAY_CARETAKER_END); !take(CARETAKER);) {
		if (clock_ms() >= until)
			return fail(t, INTERNAL_ERROR, "there is a caretaker already");
		delay_sleep(DELAY_LOCK_LOOK);
	}
	return 0;
}

/* The words of one that dies may end before its locks do. */
bool lock_is_taken_again(pid_t daemon)
{
	return !is_left(DAEMON, daemon, delay_ms(DELAY_KILL)) || holder(DAEMON);
}
