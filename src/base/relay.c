// SPDX-License-Identifier: Apache-2.0
#include "base/relay.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum {
	PIECE = 4096,   /* what a descriptor that polls as writable takes without blocking */
	LAST_MS = 1000, /* for the bytes under way when an end has gone */
};

struct flow {
	int from, to;
	int leave;
	char bytes[PIECE]; /* read, not yet written: at..end */
	size_t at, end;
};

/* false: no more comes from there. */
static bool take(struct flow *f)
{
	ssize_t got = read(f->from, f->bytes, PIECE);
	if (got < 0)
		return errno == EINTR || errno == EAGAIN;
	const char *left = f->leave < 0 ? NULL : memchr(f->bytes, f->leave, (size_t)got);
	f->at = 0;
	f->end = left ? (size_t)(left - f->bytes) : (size_t)got;
	return got > 0 && !left;
}

/* false: there is nobody to take it. */
static bool give(struct flow *f)
{
	ssize_t put = write(f->to, f->bytes + f->at, f->end - f->at);
	if (put < 0)
		return errno == EINTR || errno == EAGAIN;
	f->at += (size_t)put;
	return true;
}

static struct pollfd wanted(const struct flow *f)
{
	if (f->at < f->end)
		return (struct pollfd){ .fd = f->to, .events = POLLOUT };
	return (struct pollfd){ .fd = f->from, .events = POLLIN };
}

/* One step of both flows: 1 to go on, 0 at the end, -1 interrupted. */
static int step(struct task *t, struct flow f[2])
{
	struct pollfd p[3] = {
		wanted(&f[0]),
		wanted(&f[1]),
		{ .fd = t->cancellable ? t->cancel_fd : -1, .events = POLLIN },
	};
	if (task_check(t) < 0)
		return -1;
	if (poll(p, 3, -1) < 0)
		return errno == EINTR ? 1 : task_fail_errno(t, errno, "poll");
	for (int i = 0; i < 2; i++)
		if (p[i].revents && !(f[i].at < f[i].end ? give : take)(&f[i]))
			return 0;
	return 1;
}

int relay(struct task *t, struct relay_end a, struct relay_end b, int leave)
{
	struct flow f[2] = {
		{ .from = a.in, .to = b.out, .leave = leave },
		{ .from = b.in, .to = a.out, .leave = -1 },
	};
	int more;
	while ((more = step(t, f)) > 0)
		;
	if (more < 0)
		return -1;
	for (int i = 0; i < 2; i++)
		if (io_write(t, f[i].to, f[i].bytes + f[i].at, f[i].end - f[i].at, LAST_MS) < 0)
			task_forgive(t);
	return 0;
}
