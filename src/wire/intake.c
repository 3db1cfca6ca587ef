// SPDX-License-Identifier: Apache-2.0
#include "wire/intake.h"

#include <errno.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/delay.h"
#include "base/limits.h"
#include "base/text.h"
#include "wire/crowd.h"

enum { FIRST_ROOM = 1024 };

typedef void make_room_fn(struct connection *, size_t n);

/* What n bytes have room in grows by doubling, up to most; what is kept has been asked for. */
static char *grow(struct connection *c, char *bytes, size_t n, size_t most, make_room_fn *make_room)
{
	size_t room = bytes ? talloc_get_size(bytes) : 0;
	if (n < room)
		return bytes;
	size_t wanted = room ? 2 * room : FIRST_ROOM;
	wanted = wanted < most ? wanted : most;
	make_room(c, wanted - room);
	return talloc_realloc(c->scope, bytes, char, wanted);
}

/* ---- the head ---- */

/* Takes as much of what has come as belongs to the head, and not a byte more. */
static enum intake take_head(struct connection *c, make_room_fn *make_room)
{
	c->head = grow(c, c->head, c->head_n, HTTP_HEAD_LIMIT, make_room);
	size_t room = talloc_get_size(c->head) - c->head_n;
	ssize_t seen = recv(c->fd, c->head + c->head_n, room, MSG_PEEK | MSG_DONTWAIT);
	if (seen < 0 && (errno == EAGAIN || errno == EINTR))
		return INTAKE_MORE;
	if (seen <= 0)
		return INTAKE_GONE;
	long end = http_head_end(c->head, c->head_n + (size_t)seen);
	if (end < 0) {
		c->status = 400;
		return INTAKE_WHOLE;
	}
	size_t take = end ? (size_t)end - c->head_n : (size_t)seen;
	if (recv(c->fd, c->head + c->head_n, take, MSG_DONTWAIT) != (ssize_t)take)
		return INTAKE_GONE;
	c->head_n += take;
	c->has_head = end > 0;
	if (!c->has_head && c->head_n == HTTP_HEAD_LIMIT)
		c->status = 431;
	return c->has_head || c->status ? INTAKE_WHOLE : INTAKE_MORE;
}

static void read_head(struct connection *c)
{
	c->status = http_parse_head(c->scope, c->head, c->head_n, &c->req);
	c->req.fd = c->fd;
	c->req.trusted = c->trusted;
	c->req.peer = c->peer;
	c->req.of = c;
	talloc_free(c->head);
	c->head = NULL;
}

/* ---- the body ---- */

/* One that is waited for with Expect: 100-continue. */
static void ask_for_body(struct connection *c)
{
	const char *expect = map_get(&c->req.headers, "expect");
	if (!expect || strcasecmp(expect, "100-continue") != 0 || c->req.minor == 0)
		return;
	send(c->fd, HTTP_GO_ON, sizeof HTTP_GO_ON - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	map_remove(&c->req.headers, "expect"); /* it has been told */
}

/* A body that the route does not want, or refuses, stays where it is. */
static bool is_wanted(const struct connection *c, size_t most)
{
	return !c->req.chunked && c->req.body_length > 0 && (uint64_t)c->req.body_length <= most;
}

static enum intake take_body(struct connection *c, make_room_fn *make_room)
{
	struct request *req = &c->req;
	size_t wanted = (size_t)req->body_length;
	while (req->gathered < wanted) {
		req->body = grow(c, req->body, req->gathered, wanted + 1, make_room);
		size_t room = talloc_get_size(req->body) - req->gathered;
		size_t most = wanted - req->gathered < room ? wanted - req->gathered : room;
		ssize_t got = recv(c->fd, req->body + req->gathered, most, MSG_DONTWAIT);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return INTAKE_MORE;
		if (got <= 0)
			return INTAKE_GONE;
		req->gathered += (size_t)got;
	}
	req->body = grow(c, req->body, wanted, wanted + 1, make_room);
	req->body[wanted] = 0;
	return INTAKE_WHOLE;
}

/* ---- all of it ---- */

enum intake intake(struct connection *c, size_t (*find)(const struct connection *),
		   make_room_fn *make_room)
{
	bool new_head = !c->has_head;
	if (!c->scope)
		c->scope = talloc_new(NULL);
	if (new_head) {
		enum intake head = take_head(c, make_room);
		if (head != INTAKE_WHOLE || c->status)
			return head;
		read_head(c);
	}
	if (c->status || !is_wanted(c, find(c)))
		return INTAKE_WHOLE;
	if (new_head)
		ask_for_body(c);
	return take_body(c, make_room);
}

int intake_patience(const struct connection *c)
{
	return delay_ms(c->has_head ? DELAY_HTTP_BODY : DELAY_HTTP_HEAD);
}

void intake_refuse_late(const struct connection *c)
{
	static const char text[] = "HTTP/1.1 408 Request Timeout\r\n"
				   "Content-Length: 0\r\n"
				   "Connection: close\r\n\r\n";
	if (c->head_n)
		send(c->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}
