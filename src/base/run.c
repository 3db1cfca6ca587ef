// SPDX-License-Identifier: Apache-2.0
#include "base/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum { OUTPUT_LIMIT = 1 << 20 };

/* What one of the program's output pipes has given so far. */
struct capture {
	int fd; /* -1: at its end */
	char *text;
	size_t n;
	void (*heard)(struct task *, const char *piece); /* instead of keeping it */
};

static void child(const char *const *argv, const int fds[4], int null, pid_t parent)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	for (int i = 0; i < 3; i++)
		dup2(fds[i] >= 0 ? fds[i] : null, i);
	if (fds[3] == 3)
		fcntl(3, F_SETFD, 0);
	else if (fds[3] >= 0)
		dup2(fds[3], 3);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

int run_start(struct task *t, const char *const *argv, const int fds[4], pid_t *ret)
{
	FD_SCOPE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return task_fail_errno(t, errno, "/dev/null");
	pid_t parent = getpid(), pid = fork();
	if (pid == 0)
		child(argv, fds, null, parent);
	if (pid < 0)
		return task_fail_errno(t, errno, argv[0]);
	*ret = pid;
	return 0;
}

/* Reads what is there; at the end of the stream closes it. */
static void capture_read(struct task *t, struct capture *c)
{
	char buf[16384];
	ssize_t got = read(c->fd, buf, sizeof buf - 1);
	if (got < 0 && errno == EINTR)
		return;
	if (got <= 0) {
		fd_close(&c->fd);
		return;
	}
	if (c->heard) {
		buf[got] = 0;
		c->heard(t, buf);
		return;
	}
	size_t take = (size_t)got < OUTPUT_LIMIT - c->n ? (size_t)got : OUTPUT_LIMIT - c->n;
	c->text = talloc_realloc(t, c->text, char, c->n + take + 1);
	memcpy(c->text + c->n, buf, take);
	c->n += take;
	c->text[c->n] = 0;
}

static int collect(struct task *t, struct capture c[2], int64_t end)
{
	while (c[0].fd >= 0 || c[1].fd >= 0) {
		struct pollfd p[3] = {
			{ .fd = c[0].fd, .events = POLLIN },
			{ .fd = c[1].fd, .events = POLLIN },
			{ .fd = t->cancellable && !t->undoing ? t->cancel_fd : -1,
			  .events = POLLIN },
		};
		int64_t left = end - clock_ms(), look = delay_ms(DELAY_RUN_LOOK);
		if (task_check(t) < 0)
			return -1;
		if (left <= 0)
			return fail(t, INTERNAL_ERROR, "an outside program did not end in time");
		if (poll(p, 3, left < look ? (int)left : (int)look) <= 0)
			continue;
		for (int i = 0; i < 2; i++)
			if (p[i].revents)
				capture_read(t, &c[i]);
	}
	return 0;
}

/* The program has closed its outputs: it ends, or its time does. */
static int reap(struct task *t, pid_t pid, int64_t end, int *ret_status)
{
	FD_SCOPE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int64_t left = end - clock_ms();
	int ready = pidfd < 0 ? 1 : task_wait(t, pidfd, POLLIN, left > 0 ? (int)left : 0);
	if (ready < 0)
		return -1;
	if (ready == 0)
		return fail(t, INTERNAL_ERROR, "an outside program did not end in time");
	waitpid(pid, ret_status, 0);
	return 0;
}

/* Both pipes or none. */
static int open_pipes(struct task *t, int out[2], int err[2])
{
	if (pipe2(out, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	if (pipe2(err, O_CLOEXEC) == 0)
		return 0;
	fd_close(&out[0]);
	fd_close(&out[1]);
	return task_fail_errno(t, errno, "pipe");
}

int run(struct task *t, struct run *r)
{
	int64_t end = clock_ms() + r->timeout_ms;
	int out[2], err[2], status = 0;
	pid_t pid = 0;
	task_rest(t, -1);
	if (open_pipes(t, out, err) < 0)
		return -1;
	int fds[4] = { r->in, r->out >= 0 ? r->out : out[1], err[1], -1 };
	int result = run_start(t, r->argv, fds, &pid);
	fd_close(&out[1]);
	fd_close(&err[1]);
	struct capture c[2] = {
		{ .fd = out[0], .text = talloc_strdup(t, ""), .heard = r->heard },
		{ .fd = err[0], .text = talloc_strdup(t, "") },
	};
	if (result == 0)
		result = collect(t, c, end);
	if (result == 0)
		result = reap(t, pid, end, &status);
	if (result < 0 && pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	fd_close(&c[0].fd);
	fd_close(&c[1].fd);
	r->ret_out = c[0].text;
	r->ret_err = c[1].text;
	r->ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return result;
}

int run_ok(struct task *t, struct run *r)
{
	if (run(t, r) < 0)
		return -1;
	if (r->ret_status == 0)
		return 0;
	if (r->ret_status == 127 && !*r->ret_err)
		return fail(t, OPERATION_NOT_ALLOWED, str(t, RUN_NOT_INSTALLED, r->argv[0]));
	return fail(t, INTERNAL_ERROR,
		    str(t, "%s: status %d: %.2000s", r->argv[0], r->ret_status, r->ret_err));
}
