// SPDX-License-Identifier: Apache-2.0
/* test_transfer.c -- uploads, downloads and consoles over HTTP.  What they stand on is played
 * here: one disk, one VM, one session. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/console.h"
#include "api/session.h"
#include "api/vdi.h"
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
static _Atomic size_t fails_at = SIZE_MAX; /* the export, at this byte */
static _Atomic bool imported;              /* just the disk's bytes */
static _Atomic int sessions_ended;
static _Atomic int guest = -1; /* the other end of the serial port */
static _Atomic int serial_users;

/* ---- the one object, whatever its class ---- */

const struct class class_VDI = { .name = "VDI" }, class_VM = { .name = "VM" };

static struct row *the_row(struct task *t, const struct class *c)
{
	struct row *row = talloc_zero_size(t, sizeof(struct VM_row) + sizeof(struct VDI_row));
	if (c == &class_VDI)
		((struct VDI_row *)row)->uuid = UUID;
	else
		((struct VM_row *)row)->uuid = UUID;
	row->ref = REF;
	return row;
}

struct row *db_get_row(struct task *t, const struct class *c, const char *ref)
{
	return streq(ref, REF) ? the_row(t, c) : fail_ptr(t, HANDLE_INVALID, c->name, ref);
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

void session_end(struct task *t, const char *ref)
{
	(void)t;
	CHECK(streq(ref, "OpaqueRef:login"));
	sessions_ended++;
}

int64_t vdi_size(struct task *t, const char *vdi)
{
	(void)t;
	CHECK(streq(vdi, REF));
	return DISK;
}

int vdi_export_raw(struct task *t, const char *vdi, int out)
{
	(void)vdi;
	CHECK(*t->session);
	size_t n = fails_at < DISK ? fails_at : DISK;
	if (io_write(t, out, disk, n, 5000) < 0)
		return -1;
	return n < DISK ? fail(t, VDI_IN_USE, REF, "export") : 0;
}

int vdi_import_raw(struct task *t, const char *vdi, int in, uint64_t length)
{
	(void)vdi;
	char *got = talloc_array(t, char, DISK + 1);
	ssize_t n = io_read(t, in, got, length ? length : DISK + 1, 5000);
	imported = n == DISK && memcmp(got, disk, DISK) == 0;
	return length && n != (ssize_t)length ? fail(t, INTERNAL_ERROR, "the stream ended early")
					      : 0;
}

int vm_serial(struct task *t, const char *vm, int *ret_fd)
{
	int fd[2];
	if (serial_users++) {
		serial_users--;
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", vm, "console", NULL_REF);
	}
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	guest = fd[0];
	*ret_fd = fd[1];
	return 0;
}

void vm_serial_done(struct task *t, const char *vm)
{
	(void)t, (void)vm;
	serial_users--;
}

/* ---- asking ---- */

static const struct route routes[] = {
	{ "GET", "/export_raw_vdi", transfer_export_vdi },
	{ "PUT", "/import_raw_vdi", transfer_import_vdi },
	{ "CONNECT", "/console", console_serve },
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
	CHECK(answers(t, EXPORT UUID "&format=vhd HTTP/1.1", "HTTP/1.1 400 ", "only raw"));
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
	CHECK(imported);

	imported = false;
	answer = talk(t, IMPORT " HTTP/1.0\r\n\r\n", disk, DISK, true, &n);
	CHECK(starts_with(answer, ok) && ends_with(answer, "\r\n\r\n"));
	CHECK(imported);

	answer = talk(t, known, disk, 1000, true, &n);
	CHECK(starts_with(answer, ok) &&
	      strstr(answer, "\r\n\r\nError: INTERNAL_ERROR: the stream"));
	answer = talk(t, IMPORT " HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", disk, 5, true, &n);
	CHECK(starts_with(answer, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n"));

	CHECK(answers(t, IMPORT "&chunked=true HTTP/1.1", "HTTP/1.1 403 ", "CHUNKED"));
	CHECK(answers(t, IMPORT " HTTP/1.1\r\nTransfer-Encoding: chunked", "HTTP/1.1 403 ",
		      "CHUNKED"));
	CHECK(answers(t, IMPORT " HTTP/1.1\r\nContent-Length: 0", "HTTP/1.1 400 ", "empty"));
	CHECK(answers(t, IMPORT "0 HTTP/1.1", "HTTP/1.1 404 ", "UUID_INVALID"));
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

static int console(struct task *t)
{
	static const char ask[] = "CONNECT /console?uuid=" UUID " HTTP/1.0\r\n\r\n";
	char head[19];
	int fd = unix_connect(t, socket_path);
	CHECK(io_write(t, fd, ask, sizeof ask - 1, 1000) == 0);
	CHECK(io_read(t, fd, head, sizeof head, 5000) == sizeof head);
	CHECK(memcmp(head, "HTTP/1.0 200 OK\r\n\r\n", sizeof head) == 0);
	return fd;
}

static void wait_until_free(void)
{
	for (int i = 0; i < 500 && serial_users; i++)
		poll(NULL, 0, 10);
	CHECK(!serial_users);
}

static void test_console(struct task *t)
{
	char got[5];
	int fd = console(t);
	CHECK(write(fd, "login", 5) == 5 && io_read(t, guest, got, 5, 5000) == 5);
	CHECK(memcmp(got, "login", 5) == 0);
	CHECK(write(guest, "hello", 5) == 5 && io_read(t, fd, got, 5, 5000) == 5);
	CHECK(memcmp(got, "hello", 5) == 0);
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
	CHECK(answers(t, "CONNECT /console?uuid=x HTTP/1.0", "HTTP/1.1 404 ", "VM, x"));
	CHECK(answers(t, "CONNECT /console?uuid=x HTTP/1.1\r\nUpgrade: websocket", "HTTP/1.1 501 ",
		      "WebSocket"));
}

/* A guest that neither reads nor ends: stopping does not wait for it. */
static void test_stop(struct task *t)
{
	int fd = console(t);
	http_stop();
	CHECK(!serial_users);
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
	CHECK(http_serve(t, routes, socket_path, NULL) == 0);
	test_export(t);
	test_export_failures(t);
	test_import(t);
	test_import_waits(t);
	test_auth(t);
	test_console(t);
	test_stop(t);
	talloc_free(t);
	rmdir(dir);
	return 0;
}
