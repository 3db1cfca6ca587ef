// SPDX-License-Identifier: Apache-2.0
/* test_transfer.c -- uploads, downloads and consoles over HTTP.  What they stand on is played
 * here: one disk, one console, one session. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/console.h"
#include "api/image.h"
#include "api/role.h"
#include "api/session.h"
#include "api/tasks.h"
#include "api/vdi_transfer.h"
#include "api/words.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "db/db.h"
#include "unit/check.h"
#include "wire/console.h"
#include "wire/http.h"
#include "wire/transfer.h"

#define UUID "11111111-1111-4111-8111-111111111111"
#define REF "OpaqueRef:1"

enum { DISK = 2500000 };

static char disk[DISK];
static _Atomic size_t fails_at = SIZE_MAX;  /* the export, at this byte */
static _Atomic bool imported;               /* just the disk's bytes */
static _Atomic bool chunked, coded, unsaid; /* the last import */
static _Atomic int sessions_ended;
static _Atomic int guest = -1; /* the other end of the console */
static _Atomic int console_users;

/* ---- the one object, whatever its class ---- */

const char *failure_line(struct task *t)
{
	return task_error(t);
}

const struct class class_VDI = { .name = "VDI" }, class_SR = { .name = "SR" };

static struct row *the_row(struct task *t, const struct class *c)
{
	struct VDI_row *vdi = talloc_zero(t, struct VDI_row);
	CHECK(c == &class_VDI || c == &class_SR);
	vdi->uuid = UUID;
	vdi->row.ref = REF;
	return &vdi->row;
}

struct row *db_get_row(struct task *t, const struct class *c, const char *ref)
{
	return streq(ref, REF) ? the_row(t, c) : fail_ptr(t, HANDLE_INVALID, c->name, ref);
}

struct row *db_seek_row(struct task *t, const struct class *c, const char *ref)
{
	return streq(ref, REF) ? the_row(t, c) : NULL;
}

struct row *db_by_uuid_row(struct task *t, const struct class *c, const char *uuid)
{
	return streq(uuid, UUID) ? the_row(t, c) : fail_ptr(t, UUID_INVALID, c->name, uuid);
}

const char *session_login(struct task *t, const char *user, const char *password,
			  const char *originator)
{
	(void)originator;
	if (streq(user, "root") && streq(password, "pw"))
		return "OpaqueRef:login";
	return fail_ptr(t, SESSION_AUTHENTICATION_FAILED, user, "no");
}

const char *session_local(struct task *t)
{
	(void)t;
	return "OpaqueRef:local";
}

const char *session_check(struct task *t, const char *ref)
{
	return streq(ref, "OpaqueRef:mine") ? ref : fail_ptr(t, SESSION_INVALID, ref);
}

int role_check(struct task *t, enum role needed, const char *permission)
{
	CHECK(needed == role_vm_admin || needed == role_vm_operator);
	return streq(t->session, "OpaqueRef:mine") && strstr(permission, "refused")
		       ? fail(t, RBAC_PERMISSION_DENIED, permission, "no")
		       : 0;
}

static const char *_Atomic settled; /* how the client's task ended, unless a call has taken it */

int task_adopt(struct task *t, const char *ref)
{
	t->adopts = ref;
	return streq(ref, "OpaqueRef:task") ? 0
					    : fail(t, OPERATION_NOT_ALLOWED, "the task has ended");
}

void task_settle(struct task *t)
{
	settled = *t->adopts ? code_rows[t->code].name : NULL;
}

void session_end(struct task *t, const char *ref)
{
	(void)t;
	CHECK(streq(ref, "OpaqueRef:login"));
	sessions_ended++;
}

int vdi_export(struct task *t, struct vdi_export *a)
{
	CHECK(*t->session && streq(a->vdi, REF));
	size_t n = fails_at < DISK ? fails_at : DISK;
	if (n && (a->out->begin(t, a->out, DISK) < 0 ||
		  io_write(t, a->out->fd, disk, n - (n == DISK), 5000) < 0))
		return -1;
	a->out->last = (unsigned char)disk[DISK - 1];
	return n < DISK ? fail(t, VDI_IN_USE, REF, "export") : 0;
}

int vdi_import(struct task *t, struct vdi_import *a)
{
	uint64_t length = a->source.length;
	bool open = length == STREAM_OPEN;
	char *got = talloc_array(t, char, DISK + 1);
	a->touched = true;
	chunked = a->format == &image_chunked;
	coded = a->source.coded;
	unsaid = a->source.unsaid;
	ssize_t n = io_read(t, a->source.in, got, open ? DISK + 1 : (size_t)length, 5000);
	imported = n == DISK && memcmp(got, disk, DISK) == 0;
	a->result = REF;
	return !open && n != (ssize_t)length ? fail(t, IMPORT_ERROR, "the stream ended early") : 0;
}

struct console_row *console_named(struct task *t, const char *uuid, const char *ref)
{
	struct console_row *c = talloc_zero(t, struct console_row);
	c->uuid = UUID;
	if (uuid && streq(uuid, "halted"))
		return fail_ptr(t, VM_BAD_POWER_STATE, REF, "running", "halted");
	if ((uuid && streq(uuid, UUID)) || (ref && streq(ref, REF)))
		return c;
	return uuid ? fail_ptr(t, UUID_INVALID, "console", uuid)
		    : fail_ptr(t, INVALID_VALUE, "uuid", "");
}

int console_enter(struct task *t, const struct console_row *c, int *ret_fd)
{
	int fd[2];
	CHECK(streq(c->uuid, UUID) && *t->session);
	if (console_users++) {
		console_users--;
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", REF, "console", NULL_REF);
	}
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	guest = fd[0];
	*ret_fd = fd[1];
	return 0;
}

void console_leave(struct task *t, const struct console_row *c, int fd)
{
	(void)t, (void)c;
	close(fd);
	console_users--;
}

int console_picture(struct task *t, const struct console_row *c, int file)
{
	static const char ppm[] = "P6\n2 1\n255\nABCDEF";
	(void)c;
	return io_write(t, file, ppm, strlen(ppm), 1000);
}

/* ---- asking ---- */

static const struct route routes[] = {
	{ "GET", "/export_raw_vdi", transfer_export_vdi },
	{ "PUT", "/import_raw_vdi", transfer_import_vdi },
	{ "CONNECT", "/console", console_serve },
	{ "GET", "/console", console_serve },
	{ "GET", "/vncsnapshot", console_snapshot },
	{ 0 },
};

static char *socket_path;

/* Sends the text and n bytes, then the end if wanted; what comes back, NUL behind it. */
static char *talk(struct task *t, const char *text, const char *body, size_t n, bool end,
		  size_t *ret_n)
{
	char *answer = talloc_zero_array(t, char, DISK + 4096);
	FD_SCOPE int fd = unix_connect(t, socket_path);
	CHECK(fd >= 0 && io_write(t, fd, text, strlen(text), 5000) == 0);
	if (n && io_write(t, fd, body, n, 5000) < 0)
		task_forgive(t);
	if (end)
		shutdown(fd, SHUT_WR);
	ssize_t got = io_read(t, fd, answer, DISK + 4095, 10000);
	CHECK(got >= 0);
	*ret_n = (size_t)got;
	return answer;
}

static bool answers(struct task *t, const char *request, const char *begin, const char *has)
{
	size_t n;
	const char *answer = talk(t, str(t, "%s\r\n\r\n", request), NULL, 0, false, &n);
	if (starts_with(answer, begin) && strstr(answer, has))
		return true;
	fprintf(stderr, "%s: %s\n", request, answer);
	return false;
}

#define EXPORT "GET /export_raw_vdi?vdi="
#define IMPORT_NEW "PUT /import_raw_vdi?sr_id="
#define IMPORT "PUT /import_raw_vdi?vdi=" UUID

static void test_export(struct task *t)
{
	static const char *const requests[] = {
		EXPORT UUID " HTTP/1.1\r\n\r\n",
		EXPORT REF "&format=raw&session_id=OpaqueRef:mine HTTP/1.0\r\n\r\n",
	};
	for (size_t i = 0; i < COUNT(requests); i++) {
		size_t n;
		char *answer = talk(t, requests[i], NULL, 0, false, &n);
		char *body = strstr(answer, "\r\n\r\n");
		CHECK(starts_with(answer, "HTTP/1.0 200 OK\r\n") && body);
		CHECK(strstr(answer, "\r\nContent-Length: 2500000\r\n"));
		CHECK(strstr(answer, "filename=\"" UUID ".raw\""));
		CHECK(n == (size_t)(body + 4 - answer) + DISK && !memcmp(body + 4, disk, DISK));
		talloc_free(answer);
	}
}

static void test_export_failures(struct task *t)
{
	CHECK(answers(t, EXPORT "x HTTP/1.1", "HTTP/1.1 404 ", "UUID_INVALID: VDI, x"));
	CHECK(answers(t, EXPORT "OpaqueRef:x HTTP/1.1", "HTTP/1.1 404 ", "HANDLE_INVALID"));
	CHECK(answers(t, EXPORT UUID "&format=tar HTTP/1.1", "HTTP/1.1 400 ",
		      "VALUE_NOT_SUPPORTED: format, tar, the formats are raw, qcow2, vhd"));
	CHECK(answers(t, EXPORT UUID "&base=" REF " HTTP/1.1", "HTTP/1.1 400 ", "whole disk"));
	CHECK(answers(t, "GET /export_raw_vdi HTTP/1.1", "HTTP/1.1 400 ", "INVALID_VALUE: vdi"));
	CHECK(answers(t, EXPORT UUID "&session_id=x HTTP/1.1", "HTTP/1.1 401 ", "SESSION_INVALID"));

	/* Before the first byte a failure is an answer; behind it, a short one. */
	size_t n;
	fails_at = 0;
	CHECK(answers(t, EXPORT UUID " HTTP/1.1", "HTTP/1.1 409 ", "VDI_IN_USE: " REF ", export"));
	fails_at = 1000000;
	const char *answer = talk(t, EXPORT UUID " HTTP/1.1\r\n\r\n", NULL, 0, false, &n);
	CHECK(starts_with(answer, "HTTP/1.0 200 OK\r\n") && n > 1000000 && n < 1000500);
	fails_at = SIZE_MAX;

	/* A client that goes away in the middle. */
	char byte;
	int fd = unix_connect(t, socket_path);
	CHECK(io_write(t, fd, EXPORT UUID " HTTP/1.1\r\n\r\n", strlen(EXPORT UUID) + 13, 1000) ==
	      0);
	CHECK(read(fd, &byte, 1) == 1);
	close(fd);
}

static void test_import(struct task *t)
{
	size_t n;
	static const char ok[] = "HTTP/1.0 200 OK\r\n";
	const char *known =
		str(t, IMPORT "&format=raw HTTP/1.1\r\nContent-Length: %d\r\n\r\n", DISK);
	const char *answer = talk(t, known, disk, DISK, false, &n);
	CHECK(starts_with(answer, ok) && ends_with(answer, "\r\n\r\n"));
	CHECK(imported && !unsaid && !coded);

	imported = false;
	answer = talk(t, IMPORT " HTTP/1.0\r\n\r\n", disk, DISK, true, &n);
	CHECK(starts_with(answer, ok) && ends_with(answer, "\r\n\r\n"));
	CHECK(imported && unsaid && !coded);

	answer = talk(t, known, disk, 1000, true, &n);
	CHECK(starts_with(answer, ok) &&
	      strstr(answer, "\r\n\r\nError: IMPORT_ERROR: the stream") &&
	      ends_with(answer, "\nThe disk's content is undefined.\n"));
	answer = talk(t, IMPORT " HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", disk, 5, true, &n);
	CHECK(starts_with(answer, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n"));

	answer = talk(t, IMPORT "&chunked=true HTTP/1.0\r\n\r\n", disk, DISK, true, &n);
	CHECK(starts_with(answer, ok) && chunked);
	CHECK(answers(t, IMPORT "&chunked=x HTTP/1.1", "HTTP/1.1 400 ", "chunked, x"));
	CHECK(answers(t, IMPORT "&chunked=true&format=vhd HTTP/1.1", "HTTP/1.1 400 ", "only raw"));
	answer = talk(t, IMPORT " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", disk, 5, true,
		      &n);
	CHECK(starts_with(answer, ok) && coded && unsaid && !chunked);
	CHECK(answers(t, IMPORT " HTTP/1.1\r\nContent-Length: 0", "HTTP/1.0 200 ",
		      "nothing to import"));
	CHECK(answers(t, IMPORT "0 HTTP/1.1", "HTTP/1.1 404 ", "UUID_INVALID"));
	CHECK(answers(t, IMPORT "0&task_id=OpaqueRef:task HTTP/1.1", "HTTP/1.1 404 ",
		      "UUID_INVALID"));
	CHECK(settled && streq(settled, "UUID_INVALID"));
	CHECK(answers(t, IMPORT "&task_id=OpaqueRef:old HTTP/1.1", "HTTP/1.1 403 ", "has ended"));
	CHECK(answers(t, "PUT /import_raw_vdi/?vdi=" UUID "0 HTTP/1.1", "HTTP/1.1 404 ", "UUID"));
}

static void test_import_new(struct task *t)
{
	size_t n;
	const char *known = str(t, IMPORT_NEW REF " HTTP/1.1\r\nContent-Length: %d\r\n\r\n", DISK);
	const char *answer = talk(t, known, disk, DISK, false, &n);
	CHECK(starts_with(answer, "HTTP/1.0 200 ") && ends_with(answer, "\r\n\r\n" UUID "\n"));
	answer = talk(t, known, disk, 1000, true, &n);
	CHECK(ends_with(answer, "Error: IMPORT_ERROR: the stream ended early\n"));
	CHECK(answers(t, IMPORT_NEW UUID " HTTP/1.1", "HTTP/1.1 400 ", "Content-Length"));
	CHECK(answers(t, IMPORT_NEW "x HTTP/1.1", "HTTP/1.1 404 ", "UUID_INVALID: SR"));
	CHECK(answers(t, "PUT /import_raw_vdi HTTP/1.1", "HTTP/1.1 400 ", "INVALID_VALUE: vdi"));
}

/* The answer's head comes before any of the body is sent: clients wait for it. */
static void test_import_waits(struct task *t)
{
	char head[17];
	FD_SCOPE int fd = unix_connect(t, socket_path);
	CHECK(io_write(t, fd, IMPORT " HTTP/1.0\r\n\r\n", strlen(IMPORT) + 13, 1000) == 0);
	CHECK(io_read(t, fd, head, sizeof head, 5000) == sizeof head);
	CHECK(memcmp(head, "HTTP/1.0 200 OK\r\n", sizeof head) == 0);
}

/* Whom the local socket does not trust: the handlers are called by hand. */
static const char *untrusted(struct task *t, const char *query, const char *authorization)
{
	int fd[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	struct request req = {
		.method = "GET", .path = "/", .fd = fd[0], .peer = "test", .body_length = -1
	};
	if (query)
		map_set(t, &req.query, "session_id", query);
	if (authorization)
		map_set(t, &req.headers, "authorization", authorization);
	struct task *own = task_new(t, "http");
	transfer_export_vdi(own, &req);
	talloc_free(own);
	close(fd[0]);
	char *answer = talloc_zero_array(t, char, 4096);
	CHECK(io_read(t, fd[1], answer, 4095, 1000) >= 0);
	close(fd[1]);
	return answer;
}

static void test_auth(struct task *t)
{
	static const char refused[] = "HTTP/1.1 401 Unauthorized\r\n";
	const char *nobody = untrusted(t, NULL, NULL);
	CHECK(starts_with(nobody, refused) && strstr(nobody, "\r\nWWW-Authenticate: Basic realm="));
	CHECK(starts_with(untrusted(t, NULL, "Basic cm9vdDpubw=="), refused));
	CHECK(starts_with(untrusted(t, NULL, "Basic !"), refused));
	CHECK(starts_with(untrusted(t, "OpaqueRef:other", "Basic cm9vdDpwdw=="), refused));
	CHECK(sessions_ended == 0);
	CHECK(starts_with(untrusted(t, NULL, "Basic cm9vdDpwdw=="), "HTTP/1.1 400 "));
	CHECK(sessions_ended == 1);
	CHECK(starts_with(untrusted(t, "OpaqueRef:mine", NULL), "HTTP/1.1 400 "));
	CHECK(sessions_ended == 1);
}

/* Sends the request, expects an answer with just this head, and stays connected. */
static int connect_to(struct task *t, const char *ask, const char *head)
{
	size_t n = strlen(head);
	char *got = talloc_zero_size(t, n + 1);
	int fd = unix_connect(t, socket_path);
	CHECK(io_write(t, fd, ask, strlen(ask), 1000) == 0);
	CHECK(io_read(t, fd, got, n, 5000) == (ssize_t)n && streq(got, head));
	return fd;
}

static int console(struct task *t)
{
	return connect_to(t, "CONNECT /console?uuid=" UUID " HTTP/1.0\r\n\r\n",
			  "HTTP/1.0 200 OK\r\n\r\n");
}

static void wait_until_free(void)
{
	for (int i = 0; i < 500 && console_users; i++)
		poll(NULL, 0, 10);
	CHECK(!console_users);
}

/* The bytes, and nothing else, arrive at the one end when they are sent at the other. */
static void carries(struct task *t, int from, const char *sent, size_t n, int to, const char *want,
		    size_t m)
{
	char *got = talloc_zero_size(t, m);
	CHECK(io_write(t, from, sent, n, 1000) == 0);
	CHECK(io_read(t, to, got, m, 5000) == (ssize_t)m && memcmp(got, want, m) == 0);
}
#define CARRIES(from, sent, to, want)                                                              \
	carries(t, (from), sent, sizeof(sent) - 1, (to), want, sizeof(want) - 1)

static void test_console(struct task *t)
{
	char got[5];
	int fd = console(t);
	CARRIES(fd, "login", guest, "login");
	CARRIES(guest, "hello", fd, "hello");
	CHECK(answers(t, "CONNECT /console?ref=" REF " HTTP/1.0", "HTTP/1.1 409 ", "console"));
	close(fd); /* the client leaves */
	CHECK(io_read(t, guest, got, 1, 5000) == 0);
	close(guest);
	wait_until_free();

	fd = console(t);
	CHECK(write(guest, "bye", 3) == 3);
	close(guest); /* the guest ends */
	CHECK(io_read(t, fd, got, 5, 5000) == 3);
	close(fd);
	wait_until_free();

	CHECK(answers(t, "CONNECT /console HTTP/1.0", "HTTP/1.1 400 ", "uuid"));
	CHECK(answers(t, "CONNECT /console?uuid=x HTTP/1.0", "HTTP/1.1 404 ", "console, x"));
	CHECK(answers(t, "GET /console?uuid=halted HTTP/1.0", "HTTP/1.1 409 ", "halted"));
}

#define WS                                                                                         \
	"GET /console?uuid=" UUID " HTTP/1.1\r\nHost: localhost:8080\r\nUpgrade: websocket\r\n"    \
	"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define WS_13 WS "Sec-WebSocket-Version: 13\r\n"

static int websocket(struct task *t)
{
	return connect_to(t,
			  WS_13 "Sec-WebSocket-Protocol: binary, x\r\n"
			  "Origin: https://Localhost:8080\r\n\r\n",
			  "HTTP/1.1 101 Switching Protocols\r\n"
			  "Upgrade: websocket\r\n"
			  "Connection: Upgrade\r\n"
			  "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
			  "Sec-WebSocket-Protocol: binary\r\n\r\n");
}

static void test_websocket(struct task *t)
{
	char byte;
	int fd = websocket(t);
	CARRIES(fd, "\x82\x83\x37\xfa\x21\x3d\x65\xbc\x63", guest, "RFB");
	CARRIES(guest, "RFB", fd, "\x82\x03RFB");
	CARRIES(fd, "\x89\x82\0\0\0\0hi", fd, "\x8a\x02hi");
	/* The client closes: what it sent before is delivered, and its code comes back. */
	CARRIES(fd, "\x02\x81\0\0\0\0z\x88\x82\0\0\0\0\x03\xe9", guest, "z");
	CHECK(io_read(t, guest, &byte, 1, 5000) == 0);
	CARRIES(guest, "", fd, "\x88\x02\x03\xe9");
	CHECK(io_read(t, fd, &byte, 1, 5000) == 0);
	close(fd), close(guest);
	wait_until_free();

	fd = websocket(t);
	CARRIES(fd, "\x82\x03RFB", fd, "\x88\x02\x03\xea"); /* not masked */
	close(fd), close(guest);
	wait_until_free();

	fd = websocket(t);
	CHECK(write(guest, "bye", 3) == 3);
	close(guest);
	CARRIES(fd, "", fd,
		"\x82\x03"
		"bye\x88\x02\x03\xe8");
	close(fd);
	wait_until_free();
}

static void test_websocket_refused(struct task *t)
{
	CHECK(answers(t, WS, "HTTP/1.1 426 ", "Sec-WebSocket-Version: 13\r\n"));
	CHECK(answers(t, WS_13 "Origin: https://there", "HTTP/1.1 403 ", "page"));
	CHECK(answers(t, WS_13 "Origin: https://localhost", "HTTP/1.1 403 ", "page"));
	CHECK(answers(t, WS_13 "Origin: null", "HTTP/1.1 403 ", "page"));
	CHECK(answers(t, "GET /console?uuid=" UUID " HTTP/1.1\r\nUpgrade: WebSocket",
		      "HTTP/1.1 400 ", "WebSocket"));
}

/* A client that reads nothing holds up neither the other direction nor the end. */
static void test_slow_client(struct task *t)
{
	int fd = websocket(t);
	char *much = talloc_zero_size(t, 1 << 20);
	fcntl(guest, F_SETFL, O_NONBLOCK);
	while (write(guest, much, 1 << 20) > 0)
		poll(NULL, 0, 20);
	CARRIES(fd, "\x82\x81\0\0\0\0q", guest, "q");
	close(fd);
	wait_until_free();
	close(guest);
}

static void test_snapshot(struct task *t)
{
	size_t n;
	char *answer = talk(t, "GET /vncsnapshot?ref=" REF " HTTP/1.0\r\n\r\n", NULL, 0, false, &n);
	char *body = strstr(answer, "\r\n\r\n");
	CHECK(starts_with(answer, "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n") && body);
	CHECK(memcmp(body + 4, "\xff\xd8\xff", 3) == 0 && !memcmp(answer + n - 2, "\xff\xd9", 2));
	CHECK(answers(t, "GET /vncsnapshot?uuid=x HTTP/1.0", "HTTP/1.1 404 ", "console, x"));
}

/* A guest that neither reads nor ends: stopping does not wait for it. */
static void test_stop(struct task *t)
{
	int fd = console(t);
	http_stop();
	CHECK(!console_users);
	close(fd);
	close(guest);
}

int main(void)
{
	char dir[] = "/tmp/test_transfer.XXXXXX";
	CHECK(mkdtemp(dir));
	for (size_t i = 0; i < DISK; i++)
		disk[i] = (char)(i % 253 + 1);
	struct task *t = task_new(NULL, "test");
	socket_path = str(t, "%s/sock", dir);
	CHECK(http_serve(t, &(struct http_doors){ .routes = routes, .unix_path = socket_path }) ==
	      0);
	test_export(t);
	test_export_failures(t);
	test_import(t);
	test_import_new(t);
	test_import_waits(t);
	test_auth(t);
	test_console(t);
	test_websocket(t);
	test_websocket_refused(t);
	test_slow_client(t);
	test_snapshot(t);
	test_stop(t);
	talloc_free(t);
	rmdir(dir);
	return 0;
}
