// SPDX-License-Identifier: Apache-2.0
/* answer.c -- what a route reads and writes: bodies and answers. */
#include "wire/http.h"

#include <errno.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/crowd.h"

static const struct {
	int status;
	const char *reason;
} reasons[] = {
	{ 200, "OK" },
	{ 400, "Bad Request" },
	{ 401, "Unauthorized" },
	{ 403, "Forbidden" },
	{ 404, "Not Found" },
	{ 405, "Method Not Allowed" },
	{ 408, "Request Timeout" },
	{ 409, "Conflict" },
	{ 411, "Length Required" },
	{ 413, "Content Too Large" },
	{ 421, "Misdirected Request" },
	{ 426, "Upgrade Required" },
	{ 431, "Request Header Fields Too Large" },
	{ 500, "Internal Server Error" },
	{ 501, "Not Implemented" },
	{ 503, "Service Unavailable" },
	{ 505, "HTTP Version Not Supported" },
};

static const char *reason_of(int status)
{
	for (size_t i = 0; i < COUNT(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Unknown";
}

static void owe(const struct request *req, ptrdiff_t n)
{
	if (req->of)
		crowd_owe(req->of, n);
}

/* The socket's own write would take a large answer, and the thread with it, for as long as the
 * client pleases. */
static int send_all(struct task *t, int fd, const char *from, size_t n)
{
	while (n) {
		ssize_t put = send(fd, from, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (put < 0 && errno != EINTR && errno != EAGAIN)
			return task_fail_errno(t, errno, "send");
		if (put > 0) {
			from += put;
			n -= (size_t)put;
			continue;
		}
		int ready = task_wait(t, fd, POLLOUT, delay_ms(DELAY_HTTP_WRITE));
		if (ready < 0)
			return -1;
		if (ready == 0)
			return fail(t, INTERNAL_ERROR, "the peer took nothing in time");
	}
	return 0;
}

/* Its time is limited as a whole, too: a byte taken now and then does not keep it for ever. */
static int send_answer(struct task *t, struct request *req, const char *head, const void *body,
		       size_t n)
{
	int64_t before = t->deadline_ms, most = (int64_t)(n * 1000 / ANSWER_PACE_LIMIT);
	t->deadline_ms = clock_ms() + delay_ms(DELAY_HTTP_WRITE) + most;
	owe(req, (ptrdiff_t)n);
	int result = send_all(t, req->fd, head, strlen(head));
	if (result == 0)
		result = send_all(t, req->fd, body, n);
	owe(req, -(ptrdiff_t)n);
	t->deadline_ms = before;
	return result;
}

void http_answer(struct task *t, struct request *req, int status, const char *type,
		 const char *extra, const void *body, size_t n)
{
	req->stays = req->keep && (req->read || (req->body_length <= 0 && !req->chunked));
	const char *head =
		str(t,
		    "HTTP/1.1 %d %s\r\n"
		    "Content-Type: %s\r\n"
		    "Content-Length: %zu\r\n"
		    "Cache-Control: no-store\r\n"
		    "X-Content-Type-Options: nosniff\r\n"
		    "Connection: %s\r\n"
		    "%s\r\n",
		    status, reason_of(status), type, n, req->stays ? "keep-alive" : "close", extra);
	/* A peer that does not want the answer is no concern of ours. */
	if (send_answer(t, req, head, body, n) < 0)
		req->stays = false;
}

void http_refuse(struct task *t, struct request *req, int status, const char *text)
{
	const char *extra = status == 401 ? "WWW-Authenticate: Basic realm=\"stillframe\"\r\n" : "";
	const char *body = str(t, "%s\n", text);
	http_answer(t, req, status, "text/plain; charset=utf-8", extra, body, strlen(body));
}

int http_status_of(const struct task *t)
{
	static const struct {
		enum code code;
		int status;
	} rows[] = {
		{ NO_ERROR, 200 },
		{ HANDLE_INVALID, 404 },
		{ UUID_INVALID, 404 },
		{ SESSION_INVALID, 401 },
		{ SESSION_AUTHENTICATION_FAILED, 401 },
		{ RBAC_PERMISSION_DENIED, 403 },
		{ OPERATION_NOT_ALLOWED, 403 },
		{ TOO_BUSY, 503 },
		{ INVALID_VALUE, 400 },
		{ VALUE_NOT_SUPPORTED, 400 },
		{ VDI_TOO_LARGE, 400 },
		{ OTHER_OPERATION_IN_PROGRESS, 409 },
		{ VDI_IN_USE, 409 },
		{ VM_BAD_POWER_STATE, 409 },
	};
	for (size_t i = 0; i < COUNT(rows); i++)
		if (rows[i].code == t->code)
			return rows[i].status;
	return 500;
}

int http_continue(struct task *t, struct request *req)
{
	const char *expect = map_get(&req->headers, "expect");
	if (!expect || strcasecmp(expect, "100-continue") != 0 || req->minor == 0)
		return 0;
	return io_write(t, req->fd, HTTP_GO_ON, sizeof HTTP_GO_ON - 1, delay_ms(DELAY_HTTP_WRITE));
}

int http_begin(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n"
				   "Content-Type: text/plain; charset=utf-8\r\n"
				   "Connection: close\r\n\r\n";
	if (http_continue(t, req) < 0)
		return -1;
	map_remove(&req->headers, "expect"); /* it has been told */
	req->stays = false;
	return io_write(t, req->fd, head, sizeof head - 1, delay_ms(DELAY_HTTP_WRITE));
}

/* Its time is limited as a whole: a byte now and then does not keep a thread for ever. */
static ssize_t read_body(struct task *t, struct request *req, char *to, size_t n)
{
	int64_t before = t->deadline_ms;
	t->deadline_ms = clock_ms() + delay_ms(DELAY_HTTP_BODY);
	ssize_t got = http_continue(t, req) < 0
			      ? -1
			      : io_read(t, req->fd, to, n, delay_ms(DELAY_HTTP_BODY));
	t->deadline_ms = before;
	return got;
}

char *http_body(struct task *t, struct request *req, size_t limit, size_t *ret_n)
{
	if (req->body_length < 0) {
		http_refuse(t, req, 411, "The request needs a Content-Length.");
		return NULL;
	}
	if ((uint64_t)req->body_length > limit) {
		http_refuse(t, req, 413, str(t, "The body is larger than %zu bytes.", limit));
		return NULL;
	}
	size_t n = (size_t)req->body_length;
	char *body = req->body ? req->body : talloc_array(t, char, n + 1);
	if (!req->body && read_body(t, req, body, n) != (ssize_t)n) {
		http_refuse(t, req, 408, "The body did not come.");
		return NULL;
	}
	body[n] = 0;
	req->read = true;
	*ret_n = n;
	return body;
}
