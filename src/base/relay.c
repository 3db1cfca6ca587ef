// SPDX-License-Identifier: Apache-2.0
#include "base/relay.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

/* A piece is what a descriptor that polls as writable takes without blocking. */
struct flow {
	int from, to;
	int leave;
	const struct relay_wrap *unwrap, *wrap; /* of where it comes from, of where it goes */
	char bytes[RELAY_ROOM + RELAY_PIECE];   /* read, not yet written: at..end */
	size_t at, end;
};

/* false: no more comes from there. */
static bool take(struct flow *f)
{
	char *bytes = f->bytes + RELAY_ROOM;
	ssize_t got = read(f->from, bytes, RELAY_PIECE);
	if (got < 0)
		return errno == EINTR || errno == EAGAIN;
	size_t n = (size_t)got;
	bool more = n > 0;
	if (more && f->unwrap)
		more = f->unwrap->unwrap(f->unwrap->arg, bytes, n, &n);
	const char *left = f->leave < 0 ? NULL : memchr(bytes, f->leave, n);
	if (left)
		n = (size_t)(left - bytes);
	f->at = RELAY_ROOM;
	f->end = f->at + n;
	if (n && f->wrap)
		f->at -= f->wrap->wrap(f->wrap->arg, bytes, n);
	return more && !left;
}

/* Between two pieces the protocol has the word. */
static void speak(struct flow *f, bool last)
{
	if (f->at < f->end || !f->wrap)
		return;
	f->at = 0;
	f->end = f->wrap->own(f->wrap->arg, f->bytes, last);
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
	for (int i = 0; i < 2; i++)
		speak(&f[i], false);
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

static void finish(struct task *t, struct flow *f)
{
	if (io_write(t, f->to, f->bytes + f->at, f->end - f->at, delay_ms(DELAY_RELAY_LAST)) < 0)
		task_forgive(t);
	f->at = f->end = 0;
}

int relay(struct task *t, struct relay_end a, struct relay_end b, int leave)
{
	struct flow f[2] = {
		{ a.in, b.out, .leave = leave, .unwrap = a.wrap, .wrap = b.wrap },
		{ b.in, a.out, .leave = -1, .unwrap = b.wrap, .wrap = a.wrap },
	};
	int more;
	task_rest(t, -1);
	while ((more = step(t, f)) > 0)
		;
	if (more < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		finish(t, &f[i]);
		speak(&f[i], true);
		finish(t, &f[i]);
	}
	return 0;
}
