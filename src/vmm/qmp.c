// SPDX-License-Identifier: Apache-2.0
#include "vmm/qmp.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

/* A caller that waits; lives on its stack. */
struct waiter {
	json_int_t id;
	int wake;       /* eventfd, written once */
	json_t *answer; /* NULL: the connection ended */
	struct waiter *next;
};

enum { GREETING = 0 }; /* the id under which the greeting is waited for */

struct qmp {
	int fd;
	int closing; /* eventfd, written by qmp_close() */
	pthread_t reader;
	struct qmp_handler handler;
	struct qmp_lines lines; /* the reader's; and how much it has read */
	struct bucket bytes, events;
	int64_t new_events;

	pthread_mutex_t sending; /* a message goes out in one piece; taken alone */
	pthread_mutex_t lock;    /* guards what follows, for moments only */
	struct waiter *waiters;
	json_int_t last_id;
	bool ended;
	bool garbled; /* we have ended it, for what it said was no QMP */
};

/* ---- reading ---- */

static int line(const char *s, size_t n, int (*message)(void *, json_t *), void *arg)
{
	struct task *t = task_new(NULL, "qmp");
	bool large = json_shape(s, n).values > QMP_VALUES_LIMIT;
	json_t *m = large ? NULL : json_read(t, s, n, QMP_DEPTH_LIMIT);
	int result = json_is_object(m) ? message(arg, m) : -1;
	talloc_free(t);
	return result;
}

/* Of a line that is passed over, what is behind its end. */
static void pass(struct qmp_lines *l, const char **bytes, size_t *n)
{
	const char *end = memchr(*bytes, '\n', *n);
	size_t gone = end ? (size_t)(end - *bytes) + 1 : *n;
	l->passes = !end;
	*bytes += gone;
	*n -= gone;
}

/* What has no end yet is longer than any event; or it had one, and its memory is not needed any
 * more. */
static void forget_line(struct qmp_lines *l)
{
	l->passes = l->unread.n > 0;
	free(l->unread.text);
	l->unread = (struct buffer){ 0 };
	l->seen = 0;
}

int qmp_feed(struct qmp_lines *l, const char *bytes, size_t n, int (*message)(void *, json_t *),
	     void *arg)
{
	if (l->passes)
		pass(l, &bytes, &n);
	if (n == 0)
		return 0;
	if (buffer_add(&l->unread, bytes, n, QMP_LINE_LIMIT) < 0)
		return -1;
	char *end;
	size_t start = 0;
	while ((end = memchr(l->unread.text + l->seen, '\n', l->unread.n - l->seen))) {
		size_t stop = (size_t)(end - l->unread.text);
		if (line(l->unread.text + start, stop - start, message, arg) < 0)
			return -1;
		start = l->seen = stop + 1;
	}
	memmove(l->unread.text, l->unread.text + start, l->unread.n - start);
	l->unread.n -= start;
	l->seen = l->unread.n;
	bool was_large = l->unread.n == 0 && l->unread.size > 2 * QMP_EVENT_LIMIT + 64;
	if (was_large || (l->unread.n > QMP_EVENT_LIMIT && !l->awaited))
		forget_line(l);
	return 0;
}

/* Nobody may wait any more: the caller's time was over.  What crosses threads is a copy. */
static void answer(struct qmp *q, json_int_t id, json_t *m)
{
	json_t *copy = json_deep_copy(m);
	pthread_mutex_lock(&q->lock);
	for (struct waiter *w = q->waiters; w; w = w->next)
		if (w->id == id && !w->answer && copy) {
			w->answer = copy;
			copy = NULL;
			eventfd_write(w->wake, 1);
		}
	pthread_mutex_unlock(&q->lock);
	json_decref(copy);
}

/* An error without an id says that QEMU could not read what we sent: nothing will match after it. */
static int message(void *arg, json_t *m)
{
	struct qmp *q = arg;
	const char *event = json_string_value(json_object_get(m, "event"));
	json_t *id = json_object_get(m, "id");
	q->new_events += event != NULL;
	if (event)
		q->handler.event(q->handler.arg, event, json_object_get(m, "data"));
	else if (json_is_object(json_object_get(m, "QMP")))
		answer(q, GREETING, m);
	else if (json_is_integer(id) && json_integer_value(id) != GREETING)
		answer(q, json_integer_value(id), m);
	else
		return -1;
	return 0;
}

static void set_garbled(struct qmp *q)
{
	pthread_mutex_lock(&q->lock);
	q->garbled = true;
	pthread_mutex_unlock(&q->lock);
}

static void end(struct qmp *q)
{
	pthread_mutex_lock(&q->lock);
	q->ended = true;
	for (struct waiter *w = q->waiters; w; w = w->next)
		eventfd_write(w->wake, 1);
	pthread_mutex_unlock(&q->lock);
	q->handler.ended(q->handler.arg, q->closing);
}

static bool is_awaited(struct qmp *q)
{
	pthread_mutex_lock(&q->lock);
	bool awaited = q->waiters != NULL;
	pthread_mutex_unlock(&q->lock);
	return awaited;
}

/* Until the n bytes, and the events among them, are made up for, or the connection is closed. */
static void keep_pace(struct qmp *q, ssize_t n)
{
	int64_t ms = bucket_owe(&q->bytes, n, QMP_BYTES_LIMIT, QMP_BYTES_LIMIT / 16);
	int64_t other =
		bucket_owe(&q->events, q->new_events, QMP_EVENTS_LIMIT, QMP_EVENTS_LIMIT / 20);
	struct pollfd p = { .fd = q->closing, .events = POLLIN };
	q->new_events = 0;
	ms = ms > other ? ms : other;
	if (ms > 0)
		poll(&p, 1, (int)ms);
}

static void *reader(void *arg)
{
	struct qmp *q = arg;
	char chunk[16384];
	for (;;) {
		ssize_t n = recv(q->fd, chunk, sizeof chunk, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		q->lines.awaited = is_awaited(q);
		if (qmp_feed(&q->lines, chunk, (size_t)n, message, q) < 0) {
			log_line(NULL, "qmp connection ended by us reason=\"not QMP\"");
			set_garbled(q);
			break;
		}
		keep_pace(q, n);
	}
	/* What QEMU still says is not wanted, and it shall see that nobody listens. */
	shutdown(q->fd, SHUT_RDWR);
	end(q);
	return NULL;
}

/* ---- calling ---- */

/* A QEMU that talks nonsense may still be there. */
static int has_ended(struct task *t, struct qmp *q)
{
	pthread_mutex_lock(&q->lock);
	bool garbled = q->garbled;
	pthread_mutex_unlock(&q->lock);
	return garbled ? fail(t, INTERNAL_ERROR,
			      "what the VM's QEMU said on its monitor was no QMP")
		       : fail(t, VM_HALTED, q->handler.vm);
}

static int enlist(struct task *t, struct qmp *q, struct waiter *w)
{
	pthread_mutex_lock(&q->lock);
	bool ended = q->ended;
	w->id = w->id == GREETING ? GREETING : ++q->last_id;
	w->next = q->waiters;
	if (!ended)
		q->waiters = w;
	pthread_mutex_unlock(&q->lock);
	return ended ? has_ended(t, q) : 0;
}

static void delist(struct qmp *q, struct waiter *gone)
{
	pthread_mutex_lock(&q->lock);
	for (struct waiter **w = &q->waiters; *w; w = &(*w)->next)
		if (*w == gone) {
			*w = gone->next;
			break;
		}
	pthread_mutex_unlock(&q->lock);
}

static char *request(struct task *t, struct qmp_call *c, json_int_t id)
{
	json_t *m = json_pack("{s:s, s:I, s:O*}", c->oob ? "exec-oob" : "execute", c->command, "id",
			      id, "arguments", c->arguments);
	char *text = json_text(t, m);
	json_decref(m);
	return talloc_strdup_append(text, "\n");
}

/* Never waits: the socket's buffer is full only when QEMU has left a hundred commands unread. */
static int transmit(struct task *t, struct qmp *q, const char *text, int fd)
{
	size_t n = strlen(text);
	char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(sizeof(size_t)))) = { 0 };
	struct iovec v = { (char *)(uintptr_t)text, n };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	if (fd > 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof control;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		*h = (struct cmsghdr){ CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
	}
	pthread_mutex_lock(&q->sending);
	ssize_t sent = sendmsg(q->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	int err = errno;
	if (sent >= 0 && (size_t)sent < n)
		shutdown(q->fd, SHUT_RDWR); /* half a command: QEMU would misread the next one */
	pthread_mutex_unlock(&q->sending);
	if (sent == (ssize_t)n)
		return 0;
	if (sent >= 0 || err == EAGAIN)
		return fail(t, INTERNAL_ERROR, "the VM's QEMU takes no more commands");
	return err == EPIPE || err == ECONNRESET ? has_ended(t, q)
						 : task_fail_errno(t, err, "the VM's QEMU");
}

/* Without heed, neither cancel nor the task's deadline cuts the wait: the command would be
 * executed nevertheless, and nobody would know how it went. */
static int await(struct task *t, int wake, int ms, bool heed)
{
	if (heed)
		return task_wait(t, wake, POLLIN, ms);
	struct pollfd p = { .fd = wake, .events = POLLIN };
	int64_t over = clock_ms() + ms;
	task_rest(t, -1);
	for (;;) {
		int64_t left = over - clock_ms();
		int n = poll(&p, 1, left > 0 ? (int)left : 0);
		if (n >= 0 || errno != EINTR)
			return n;
	}
}

/* Waits for the answer to w, which is enlisted, and takes it off the list.  NULL: failed. */
static json_t *collect(struct task *t, struct qmp *q, struct waiter *w, const char *what, int ms,
		       bool heed)
{
	int ready = await(t, w->wake, ms, heed);
	delist(q, w);
	if (w->answer)
		return json_own(t, w->answer);
	if (ready < 0)
		return NULL;
	if (ready == 0)
		return fail_ptr(t, INTERNAL_ERROR,
				str(t, "QMP %s: no answer within %d ms", what, ms));
	has_ended(t, q);
	return NULL;
}

static int refused(struct task *t, struct qmp_call *c, const json_t *error)
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	c->ret_class = talloc_strdup(t, class ? class : "");
	c->ret_desc = talloc_asprintf(t, "%.2000s", desc ? desc : "no reason given");
	const char *text = str(t, "QMP %s: %s", c->command, c->ret_desc);
	if (strstr(c->ret_desc, strerror(ENOSPC)))
		return fail(t, SR_BACKEND_FAILURE_44, "", text, "");
	return fail(t, INTERNAL_ERROR, text);
}

int qmp_call(struct task *t, struct qmp *q, struct qmp_call *c)
{
	FD_SCOPE int wake = eventfd(0, EFD_CLOEXEC);
	struct waiter w = { .id = -1, .wake = wake };
	json_own(t, c->arguments);
	if (wake < 0)
		return task_fail_errno(t, errno, "eventfd");
	if (enlist(t, q, &w) < 0)
		return -1;
	if (transmit(t, q, request(t, c, w.id), c->fd) < 0) {
		delist(q, &w);
		json_decref(w.answer); /* a hostile QEMU answers what it has not been asked */
		return -1;
	}
	json_t *m = collect(t, q, &w, c->command, c->ms ? c->ms : delay_ms(DELAY_QMP), c->query);
	if (!m)
		return -1;
	c->ret = json_object_get(m, "return");
	return c->ret ? 0 : refused(t, c, json_object_get(m, "error"));
}

int qmp_do(struct task *t, struct qmp *q, const char *command, json_t *arguments)
{
	struct qmp_call c = { .command = command, .arguments = arguments };
	return qmp_call(t, q, &c);
}

/* ---- opening and closing ---- */

static int greet(struct task *t, struct qmp *q, struct waiter *w, int ms, bool oob)
{
	if (!collect(t, q, w, "greeting", ms, true))
		return -1;
	struct qmp_call c = { .command = "qmp_capabilities", .query = true, .ms = ms };
	if (oob)
		c.arguments = json_pack("{s:[s]}", "enable", "oob");
	return qmp_call(t, q, &c);
}

static struct qmp *qmp_new(struct task *t, int fd, struct qmp_handler handler)
{
	struct qmp *q = calloc(1, sizeof *q);
	int closing = eventfd(0, EFD_CLOEXEC);
	if (!q || closing < 0) {
		free(q);
		task_fail_errno(t, errno, "QMP");
		return NULL;
	}
	q->fd = fd;
	q->closing = closing;
	q->handler = handler;
	pthread_mutex_init(&q->sending, NULL);
	pthread_mutex_init(&q->lock, NULL);
	return q;
}

static void qmp_free(struct qmp *q)
{
	close(q->fd);
	close(q->closing);
	free(q->lines.unread.text);
	pthread_mutex_destroy(&q->sending);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

const char *qmp_vm(const struct qmp *q)
{
	return q->handler.vm;
}

struct qmp *qmp_open(struct task *t, int fd, int ms, bool oob, struct qmp_handler handler)
{
	FD_SCOPE int wake = eventfd(0, EFD_CLOEXEC);
	struct waiter w = { .id = GREETING, .wake = wake };
	struct qmp *q = qmp_new(t, fd, handler);
	if (!q) {
		close(fd);
		return NULL;
	}
	enlist(t, q, &w);
	int err = pthread_create(&q->reader, NULL, reader, q);
	if (err) {
		task_fail_errno(t, err, "a thread for QMP");
		qmp_free(q);
		return NULL;
	}
	if (greet(t, q, &w, ms, oob) == 0)
		return q;
	qmp_close(q);
	return NULL;
}

void qmp_close(struct qmp *q)
{
	eventfd_write(q->closing, 1);
	shutdown(q->fd, SHUT_RDWR);
	pthread_join(q->reader, NULL);
	qmp_free(q);
}
