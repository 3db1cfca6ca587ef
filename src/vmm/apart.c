// SPDX-License-Identifier: Apache-2.0
#include "vmm/apart.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/process.h"

enum { ABOVE = APART_FIRST + APART_MOST }; /* no number here is one that it is to have */

/* All that is needed between fork and exec, where only system calls may be made. */
struct birth {
	char **argv, **environment;
	int fds[APART_MOST];
	size_t n;
};

static char **words_of(struct task *t, const char *const *argv)
{
	size_t n = 0;
	while (argv[n])
		n++;
	char **copy = talloc_zero_array(t, char *, n + 1);
	for (size_t i = 0; i < n; i++)
		copy[i] = talloc_strdup(copy, argv[i]);
	return copy;
}

/* Ours, but for what ends a process at a crash_point(). */
static char **environment_of(struct task *t)
{
	size_t n = 0, kept = 0;
	while (environ[n])
		n++;
	char **copy = talloc_zero_array(t, char *, n + 1);
	for (size_t i = 0; i < n; i++)
		if (!starts_with(environ[i], "STILLFRAME_CRASH_"))
			copy[kept++] = environ[i];
	return copy;
}

/* By way of high numbers: one of those that it is to have may be in the place of another. */
static bool place(const struct birth *b)
{
	int high[APART_MOST] = { 0 }, null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
		return false;
	for (size_t i = 0; i < b->n; i++)
		if ((high[i] = fcntl(b->fds[i], F_DUPFD, ABOVE)) < 0)
			return false;
	for (size_t i = 0; i < b->n; i++)
		if (dup2(high[i], APART_FIRST + (int)i) < 0)
			return false;
	syscall(SYS_close_range, APART_FIRST + (unsigned)b->n, ~0U, 0);
	return true;
}

static void become(const void *arg)
{
	const struct birth *b = arg;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (place(b) && chdir("/") == 0)
		execve("/proc/self/exe", b->argv, b->environment);
	_exit(127);
}

int apart_open(struct task *t, const char *const *argv, const int *fds, size_t n)
{
	int pair[2];
	struct task *own = task_part(t);
	struct birth b = { .argv = words_of(own, argv), .environment = environment_of(own) };
	assert(n < APART_MOST);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		talloc_free(own);
		return task_fail_errno(t, errno, "socketpair");
	}
	for (b.n = 0; b.n < n; b.n++)
		b.fds[b.n] = fds[b.n];
	b.fds[b.n++] = pair[1];
	int started = process_apart(t, become, &b);
	close(pair[1]);
	talloc_free(own);
	if (started == 0)
		return pair[0];
	close(pair[0]);
	return -1;
}

pid_t apart_maker(int words)
{
	struct ucred c = { .pid = 0 };
	getsockopt(words, SOL_SOCKET, SO_PEERCRED, &c, &(socklen_t){ sizeof c });
	return c.pid;
}

void apart_close(int *words, int ms)
{
	char word;
	struct pollfd p = { .fd = *words, .events = POLLIN };
	if (*words < 0)
		return;
	send(*words, "leave", 5, MSG_NOSIGNAL | MSG_DONTWAIT);
	int64_t until = clock_ms() + ms, left;
	while ((left = until - clock_ms()) > 0)
		if (poll(&p, 1, (int)left) > 0 && recv(*words, &word, 1, MSG_DONTWAIT) <= 0)
			break;
	fd_close(words);
}
