// SPDX-License-Identifier: Apache-2.0
#include "cli/thin.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/frame.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/task.h"
#include "base/text.h"

enum { ANSWER_MOST = 64 /* a client's frames are 12 bytes at most */ };

struct thin {
	struct task *task;
	int fd;
	bool gone;

	bool watching;
	pthread_t watcher;
	int stop_fd; /* eventfd: the watcher is to end */
	struct task *watched;
};

/* ---- the body of the request ---- */

static bool take_line(struct task *t, const char *line, bool first, struct thin_request *r)
{
	const struct {
		const char *prefix;
		const char **to;
		bool here;
	} known[] = {
		{ "session_id=", &r->session, first },
		{ "username=", &r->username, true },
		{ "password=", &r->password, true },
	};
	for (size_t i = 0; i < COUNT(known); i++)
		if (known[i].here && starts_with(line, known[i].prefix)) {
			*known[i].to = talloc_strdup(t, line + strlen(known[i].prefix));
			return true;
		}
	return false;
}

int thin_parse_body(struct task *t, const char *body, size_t n, struct thin_request *ret)
{
	struct thin_request r = { 0 };
	char *text = talloc_strndup(t, n ? body : "", n);
	if (strlen(text) != n || !text_is_utf8(text))
		return fail(t, INTERNAL_ERROR, "the command line is not UTF-8 text");
	size_t lines = 0;
	for (char *line; (line = strsep(&text, "\n")); lines++) {
		if (lines == CLI_LINES_LIMIT)
			return fail(t, INTERNAL_ERROR, "the command line has too many arguments");
		if (*line && !take_line(t, line, lines == 0, &r))
			list_add(t, &r.args, line);
	}
	*ret = r;
	return 0;
}

/* ---- talking ---- */

/* The user is to learn of a cancel, too: while we talk, the task is not to be cancelled. */
static bool heed_cancel(struct thin *th, bool heed)
{
	bool before = th->task->cancellable;
	th->task->cancellable = heed;
	return before;
}

static int lost(struct thin *th)
{
	th->gone = true;
	return fail(th->task, INTERNAL_ERROR, "the client is gone");
}

static int send_frame(struct thin *th, const struct frame *f)
{
	if (th->gone)
		return lost(th);
	bool before = heed_cancel(th, false);
	int status = frame_send(th->task, th->fd, f);
	heed_cancel(th, before);
	if (status < 0)
		th->gone = true;
	return status;
}

static int receive(struct thin *th, struct frame *ret)
{
	bool before = heed_cancel(th, false);
	int status = frame_receive(th->task, th->task, th->fd, ANSWER_MOST, ret);
	heed_cancel(th, before);
	if (status == 0)
		return lost(th);
	if (status < 0)
		th->gone = true;
	return status < 0 ? -1 : 0;
}

struct thin *thin_open(struct task *t, int fd)
{
	unsigned char ours[FRAME_GREETING], theirs[FRAME_GREETING];
	frame_greeting(ours);
	if (io_write(t, fd, ours, sizeof ours, delay_ms(DELAY_THIN_GREETING)) < 0)
		return NULL;
	ssize_t n = io_read(t, fd, theirs, sizeof theirs, delay_ms(DELAY_THIN_GREETING));
	if (n < 0)
		return NULL;
	/* Any minor version: what a newer client could do more, it is not asked for. */
	if (n < (ssize_t)sizeof theirs || memcmp(ours, theirs, sizeof ours - 4) != 0)
		return fail_ptr(t, INTERNAL_ERROR, "the client speaks another protocol");
	struct thin *th = talloc_zero(t, struct thin);
	th->task = t;
	th->fd = fd;
	return th;
}

bool thin_gone(const struct thin *th)
{
	return th->gone;
}

static int send_text(struct thin *th, enum frame_tag tag, const char *text)
{
	return send_frame(th, &(struct frame){ .kind = FRAME_COMMAND, .tag = tag, .text = text });
}

int thin_print(struct thin *th, const char *text)
{
	return send_text(th, FRAME_PRINT, text);
}

int thin_error(struct thin *th, const char *text)
{
	return send_text(th, FRAME_PRINT_STDERR, text);
}

int thin_debug(struct thin *th, const char *text)
{
	return send_text(th, FRAME_DEBUG, text);
}

int thin_error_code(struct thin *th, const char *code, const char *const *params)
{
	struct frame f = { .kind = FRAME_COMMAND, .tag = FRAME_ERROR, .text = code };
	for (; params && *params; params++)
		list_add(th->task, &f.params, *params);
	return send_frame(th, &f);
}

int thin_exit(struct thin *th, int code)
{
	return send_frame(th, &(struct frame){ FRAME_COMMAND, FRAME_EXIT, .number = code });
}

/* ---- asking ---- */

static int broken(struct thin *th)
{
	th->gone = true; /* where its next frame begins, nobody knows */
	return fail(th->task, INTERNAL_ERROR, "the client gave an answer out of order");
}

/* Appends a chunk's n bytes to what there is; keeps room for a NUL. */
static int take_chunk(struct thin *th, char **bytes, size_t *have, size_t n)
{
	*bytes = talloc_realloc(th->task, *bytes, char, *have + n + 1);
	bool before = heed_cancel(th, false);
	ssize_t got = io_read(th->task, th->fd, *bytes + *have, n, -1);
	heed_cancel(th, before);
	if (got < 0)
		th->gone = true;
	if (got < (ssize_t)n)
		return got < 0 ? -1 : lost(th);
	*have += n;
	return 0;
}

/* Chunks until the end, NUL behind them, on the task. */
static char *take_blob(struct thin *th, size_t limit, size_t *ret_n)
{
	char *bytes = talloc_array(th->task, char, 1);
	size_t n = 0;
	for (;;) {
		struct frame f;
		if (receive(th, &f) < 0)
			return NULL;
		if (f.kind != FRAME_BLOB) {
			broken(th);
			return NULL;
		}
		if (f.tag == FRAME_END)
			break;
		if ((size_t)f.number > limit - n) {
			th->gone = true; /* what it still sends is not read */
			return fail_ptr(th->task, INTERNAL_ERROR,
					str(th->task, "the client sent more than %zu bytes",
					    limit));
		}
		if (take_chunk(th, &bytes, &n, (size_t)f.number) < 0)
			return NULL;
	}
	bytes[n] = 0;
	*ret_n = n;
	return bytes;
}

char *thin_prompt(struct thin *th)
{
	if (send_frame(th, &(struct frame){ FRAME_COMMAND, FRAME_PROMPT }) < 0)
		return NULL;
	size_t n;
	char *line = take_blob(th, CLI_PROMPT_LIMIT, &n);
	if (line)
		line[strcspn(line, "\r\n")] = 0;
	return line;
}

/* OK is 0; while the client is busy it says so from time to time. */
static int take_response(struct thin *th, const char *what)
{
	for (;;) {
		struct frame f;
		if (receive(th, &f) < 0)
			return -1;
		if (f.kind != FRAME_RESPONSE)
			return broken(th);
		if (f.tag == FRAME_OK)
			return 0;
		if (f.tag == FRAME_FAILED)
			return fail(th->task, INTERNAL_ERROR, what);
	}
}

char *thin_load(struct thin *th, const char *filename, size_t limit, size_t *ret_n)
{
	if (send_text(th, FRAME_LOAD, filename) < 0)
		return NULL;
	if (take_response(th, str(th->task, "the client did not give the file %s", filename)) < 0)
		return NULL;
	return take_blob(th, limit, ret_n);
}

static int transfer(struct thin *th, enum frame_tag tag, const char *filename, const char *path,
		    const char *what)
{
	struct frame f = { FRAME_COMMAND, tag, .text = filename, .path = path };
	return send_frame(th, &f) < 0 ? -1 : take_response(th, what);
}

int thin_get(struct thin *th, const char *filename, const char *path)
{
	return transfer(th, FRAME_HTTP_GET, filename, path, "the client could not fetch the data");
}

int thin_put(struct thin *th, const char *filename, const char *path)
{
	return transfer(th, FRAME_HTTP_PUT, filename, path, "the client could not send the data");
}

int thin_connect(struct thin *th, const char *path)
{
	return transfer(th, FRAME_HTTP_CONNECT, NULL, path, "the client could not connect");
}

/* ---- watching ---- */

static void *watch(void *arg)
{
	struct thin *th = arg;
	struct pollfd p[2] = {
		{ .fd = th->fd, .events = POLLRDHUP },
		{ .fd = th->stop_fd, .events = POLLIN },
	};
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (p[0].revents)
		task_interrupt(th->watched);
	return NULL;
}

int thin_watch(struct thin *th, struct task *watched)
{
	th->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (th->stop_fd < 0)
		return task_fail_errno(th->task, errno, "eventfd");
	th->watched = watched;
	int err = pthread_create(&th->watcher, NULL, watch, th);
	if (err) {
		fd_close(&th->stop_fd);
		return task_fail_errno(th->task, err, "pthread_create");
	}
	th->watching = true;
	return 0;
}

void thin_unwatch(struct thin *th)
{
	if (!th->watching)
		return;
	eventfd_write(th->stop_fd, 1);
	pthread_join(th->watcher, NULL);
	fd_close(&th->stop_fd);
	th->watching = false;
}
