// SPDX-License-Identifier: Apache-2.0
#include "wire/console.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api/console.h"
#include "api/words.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/relay.h"
#include "base/room.h"
#include "base/task.h"
#include "wire/auth.h"
#include "wire/http.h"
#include "wire/jpeg.h"
#include "wire/ws.h"

static struct console_row *console_asked(struct task *t, struct request *req)
{
	return console_named(t, map_get(&req->query, "uuid"), map_get(&req->query, "ref"));
}

static void refuse(struct task *t, struct request *req)
{
	http_refuse(t, req, http_status_of(t), failure_line(t));
}

/* ---- the stream ---- */

static int say_yes(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n\r\n";
	if (ws_wanted(req))
		return ws_accept(t, req);
	return io_write(t, req->fd, head, sizeof head - 1, delay_ms(DELAY_HTTP_WRITE));
}

static void connect_them(struct task *t, struct request *req, int console)
{
	struct ws ws = { 0 };
	struct relay_wrap frames = ws_relay_wrap(&ws);
	struct relay_end guest = { console, console }, client = { req->fd, req->fd };
	if (ws_wanted(req))
		client.wrap = &frames;
	t->cancellable = true;
	if (say_yes(t, req) == 0)
		relay(t, client, guest, -1);
	t->cancellable = false;
}

static void attach(struct task *t, struct request *req)
{
	struct console_row *c = console_asked(t, req);
	int fd;
	if (!c || console_enter(t, c, &fd) < 0) {
		refuse(t, req);
		return;
	}
	log_line(t, "console attached console=%s peer=\"%s\"", c->uuid, req->peer);
	connect_them(t, req, fd);
	console_leave(t, c, fd);
	log_line(t, "console left console=%s peer=\"%s\"", c->uuid, req->peer);
}

void console_serve(struct task *t, struct request *req)
{
	if (ws_wanted(req) && ws_check(t, req) < 0)
		return;
	if (auth_begin(t, req, role_vm_operator) < 0)
		return;
	attach(t, req);
	auth_end(t, req);
}

/* ---- the picture ---- */

/* A guest that has taken over its QEMU says how large its picture is, up to what wire/jpeg.h
 * allows. */
static struct room pictures = ROOM_EMPTY;

static int take_picture(struct task *t, struct request *req, const void **ret, size_t *ret_n)
{
	struct console_row *c = console_asked(t, req);
	if (!c)
		return -1;
	FD_SCOPE int file = memfd_create("screen", MFD_CLOEXEC);
	if (file < 0)
		return task_fail_errno(t, errno, "memfd_create");
	if (console_picture(t, c, file) < 0)
		return -1;
	return jpeg_of_ppm(t, file, ret, ret_n);
}

static int snapshot(struct task *t, struct request *req, const void **ret, size_t *ret_n)
{
	if (!room_enter(t, &pictures, PICTURES_LIMIT, delay_ms(DELAY_PICTURE)))
		return fail(t, TOO_BUSY);
	int result = take_picture(t, req, ret, ret_n);
	room_leave(&pictures);
	return result;
}

void console_snapshot(struct task *t, struct request *req)
{
	const void *jpeg;
	size_t n;
	if (auth_begin(t, req, role_vm_operator) < 0)
		return;
	if (snapshot(t, req, &jpeg, &n) < 0)
		refuse(t, req);
	else
		http_answer(t, req, 200, "image/jpeg", "", jpeg, n);
	auth_end(t, req);
}
