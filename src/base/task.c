// SPDX-License-Identifier: Apache-2.0
#include "base/task.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/log.h"
#include "base/text.h"

const struct code_row code_rows[CODE_MAX] = {
	[NO_ERROR] = { "", "", "" },
#define ERROR(code, params, text) [code] = { #code, params, text },
#include "base/errors.def"
};

static int task_free(struct task *t)
{
	assert(t->depth == 0);
	close(t->cancel_fd);
	return 0;
}

struct task *task_new(const void *parent, const char *name)
{
	struct task *t = talloc_zero(parent, struct task);
	t->name = talloc_strdup(t, name);
	t->ref = t->session = t->peer = t->adopts = t->op = "";
	t->scope = t;
	t->hi = 1;
	t->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	talloc_set_destructor(t, task_free);
	return t;
}

struct task *task_part(struct task *whole)
{
	struct task *t = task_new(whole, whole->name);
	t->ref = whole->ref;
	t->session = whole->session;
	t->peer = whole->peer;
	t->op = whole->op;
	t->whole = whole;
	t->cancellable = whole->cancellable;
	t->deadline_ms = whole->deadline_ms;
	int fd = fcntl(whole->cancel_fd, F_DUPFD_CLOEXEC, 0); /* readable when the other one is */
	if (fd >= 0) {
		close(t->cancel_fd);
		t->cancel_fd = fd;
	}
	return t;
}

int task_fail_params(struct task *t, enum code code, const char *const *params)
{
	assert(code > NO_ERROR && code < CODE_MAX);
	if (t->code != NO_ERROR) {
		log_line(t, "further error code=%s after=%s", code_rows[code].name,
			 code_rows[t->code].name);
		return -1;
	}
	size_t n = 0;
	while (params[n])
		n++;
	t->code = code;
	t->params = talloc_zero_array(t, const char *, n + 1);
	for (size_t i = 0; i < n; i++)
		t->params[i] = talloc_strdup(t->params, params[i]);
	return -1;
}

int task_fail(struct task *t, enum code code, const char *file, int line, ...)
{
	const char *params[8] = { NULL };
	va_list ap;
	va_start(ap, line);
	for (size_t i = 0; i < 7 && (params[i] = va_arg(ap, const char *)); i++)
		;
	va_end(ap);
	if (t->code == NO_ERROR)
		t->place = talloc_asprintf(t, "%s:%d", file, line);
	return task_fail_params(t, code, params);
}

/* What is the storage's fault, wherever it is met. */
static const struct {
	int err;
	enum code code;
	const char *says;
} of_storage[] = {
	{ ENOSPC, SR_BACKEND_FAILURE_44, "There is insufficient space" },
	{ EDQUOT, SR_BACKEND_FAILURE_44, "There is insufficient space" },
	{ EIO, SR_BACKEND_FAILURE_46, "The storage does not work" },
	{ EROFS, SR_BACKEND_FAILURE_46, "The storage has become read-only" },
};

int task_fail_errno(struct task *t, int err, const char *what)
{
	const char *text = talloc_asprintf(t, "%s: %s", what, strerror(err));
	for (size_t i = 0; i < COUNT(of_storage); i++)
		if (of_storage[i].err == err)
			return fail(t, of_storage[i].code, "",
				    talloc_asprintf(t, "%s [opterr=%s]", of_storage[i].says, text),
				    "");
	return fail(t, INTERNAL_ERROR, text);
}

void task_forgive(struct task *t)
{
	t->code = NO_ERROR;
	t->params = NULL;
	t->place = NULL;
}

const char *task_error(struct task *t)
{
	char *s = talloc_strdup(t, code_rows[t->code].name);
	for (size_t i = 0; t->params && t->params[i]; i++)
		s = talloc_asprintf_append(s, "%s%s", i ? ", " : ": ", t->params[i]);
	return s;
}

void task_interrupt(struct task *t)
{
	uint64_t one = 1;
	atomic_store(&t->cancelled, true);
	if (write(t->cancel_fd, &one, sizeof one) < 0)
		return; /* the counter is full: it is readable already */
}

static bool heeds_cancel(const struct task *t)
{
	return t->cancellable && !t->undoing;
}

static bool past_deadline(const struct task *t)
{
	return t->deadline_ms && !t->undoing && clock_ms() >= t->deadline_ms;
}

static bool is_cancelled(struct task *t)
{
	return atomic_load(&t->cancelled) || (t->whole && is_cancelled(t->whole));
}

int task_check(struct task *t)
{
	if (heeds_cancel(t) && is_cancelled(t))
		return fail(t, TASK_CANCELLED, t->ref);
	if (past_deadline(t))
		return fail(t, INTERNAL_ERROR, "the operation's time is over");
	return 0;
}

/* The shorter of ms and what the deadline leaves; -1: no limit. */
static int time_left(const struct task *t, int ms)
{
	if (!t->deadline_ms || t->undoing)
		return ms;
	int64_t left = t->deadline_ms - clock_ms();
	if (left < 0)
		left = 0;
	return ms < 0 || left < ms ? (int)left : ms;
}

/* Of the task that this one is a part of, or its own. */
static struct task *task_with_turn(struct task *t)
{
	while (t->whole)
		t = t->whole;
	return t;
}

void task_rest(struct task *t, int fd)
{
	struct task_turn *turn = task_with_turn(t)->turn;
	if (turn)
		turn->rest(turn, fd);
}

void task_work(struct task *t)
{
	struct task_turn *turn = task_with_turn(t)->turn;
	if (turn)
		turn->work(turn);
}

bool task_is_left(struct task *t)
{
	struct task_turn *turn = task_with_turn(t)->turn;
	return turn && turn->is_left(turn);
}

int task_vouch(struct task *t, const char *user)
{
	struct task_turn *turn = task_with_turn(t)->turn;
	return turn ? turn->vouch(turn, t, user) : 0;
}

int task_wait(struct task *t, int fd, short events, int ms)
{
	int64_t end = ms < 0 ? 0 : clock_ms() + ms;
	struct pollfd now = { .fd = fd, .events = events };
	if (ms != 0 && poll(&now, 1, 0) == 0)
		task_rest(t, fd);
	for (;;) {
		if (task_check(t) < 0)
			return -1;
		struct pollfd p[2] = {
			{ .fd = fd, .events = events },
			{ .fd = heeds_cancel(t) ? t->cancel_fd : -1, .events = POLLIN },
		};
		int left = ms < 0 ? -1 : (int)(end - clock_ms());
		if (ms >= 0 && left < 0)
			left = 0;
		int n = poll(p, 2, time_left(t, left));
		if (n < 0 && errno != EINTR)
			return task_fail_errno(t, errno, "poll");
		if (n > 0 && p[0].revents)
			return p[0].revents;
		if (n == 0 && ms >= 0 && clock_ms() >= end)
			return task_check(t);
	}
}

void task_span(struct task *t, double lo, double hi)
{
	t->lo = lo;
	t->hi = hi;
	task_progress(t, 0);
}

void task_progress(struct task *t, double fraction)
{
	double whole = t->lo + (t->hi - t->lo) * fraction;
	bool soon = whole < t->shown + 0.01 || clock_ms() < t->shown_ms + delay_ms(DELAY_PROGRESS);
	if (!t->sink || (soon && (fraction < 1 || whole <= t->shown)))
		return;
	t->shown = whole;
	t->shown_ms = clock_ms();
	t->sink->progress(t->sink, whole);
}
