// SPDX-License-Identifier: Apache-2.0
/* test_thin.c -- the frames of the thin CLI protocol, and the server's side of it against a
 * client that is well or badly behaved. */
#include "cli/thin.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/frame.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

/* ---- frames ---- */

#define BYTES(literal) literal, sizeof literal - 1

static const struct {
	const char *bytes; /* behind the length */
	size_t n;
	struct frame means;
} good[] = {
	{ BYTES("\x09\0\0\0\0\0\0\0\x02\0\0\0hi"), { FRAME_COMMAND, FRAME_PRINT, .text = "hi" } },
	{ BYTES("\x09\0\0\0\x10\0\0\0\0\0\0\0"),
	  { FRAME_COMMAND, FRAME_PRINT_STDERR, .text = "" } },
	{ BYTES("\x09\0\0\0\x04\0\0\0\xff\xff\xff\xff"),
	  { FRAME_COMMAND, FRAME_EXIT, .number = -1 } },
	{ BYTES("\x09\0\0\0\x03\0\0\0"), { FRAME_COMMAND, FRAME_PROMPT } },
	{ BYTES("\x09\0\0\0\x0c\0\0\0\x01\0\0\0f\x02\0\0\0/p"),
	  { FRAME_COMMAND, FRAME_HTTP_GET, .text = "f", .path = "/p" } },
	{ BYTES("\x09\0\0\0\x11\0\0\0\x02\0\0\0/p"),
	  { FRAME_COMMAND, FRAME_HTTP_CONNECT, .path = "/p" } },
	{ BYTES("\x0a\0\0\0\x05\0\0\0"), { FRAME_RESPONSE, FRAME_OK } },
	{ BYTES("\x0a\0\0\0\x12\0\0\0"), { FRAME_RESPONSE, FRAME_WAIT } },
	{ BYTES("\x0b\0\0\0\x07\0\0\0\x03\0\0\0"), { FRAME_BLOB, FRAME_CHUNK, .number = 3 } },
	{ BYTES("\x0b\0\0\0\x08\0\0\0"), { FRAME_BLOB, FRAME_END } },
};

static const struct {
	const char *bytes;
	size_t n;
} bad[] = {
	{ BYTES("") },
	{ BYTES("\x09\0\0\0") },
	{ BYTES("\x09\0\0\0\0\0\0\0") },
	{ BYTES("\x09\0\0\0\0\0\0\0\x03\0\0\0hi") },                  /* longer than there is */
	{ BYTES("\x09\0\0\0\0\0\0\0\x01\0\0\0hi") },                  /* something behind it */
	{ BYTES("\x09\0\0\0\0\0\0\0\xff\xff\xff\xffhi") },            /* less than nothing */
	{ BYTES("\x09\0\0\0\0\0\0\0\x02\0\0\0h\0") },                 /* NUL */
	{ BYTES("\x09\0\0\0\x02\0\0\0") },                            /* no such command */
	{ BYTES("\x09\0\0\0\x05\0\0\0") },                            /* a response's tag */
	{ BYTES("\x0a\0\0\0\x04\0\0\0\0\0\0\0") },                    /* a command's tag */
	{ BYTES("\x0c\0\0\0\x05\0\0\0") },                            /* no such kind */
	{ BYTES("\x0b\0\0\0\x07\0\0\0\xff\xff\xff\xff") },            /* a chunk of -1 bytes */
	{ BYTES("\x09\0\0\0\x0e\0\0\0\x01\0\0\0E\xff\xff\xff\x7f") }, /* a list of 2^31-1 */
	{ BYTES("\x09\0\0\0\x0e\0\0\0\x01\0\0\0E\x01\0\0\0") },
	{ BYTES("\x09\0\0\0\x0e\0\0\0\x01\0\0\0E\x01\0\0\0\x01\0\0\0") },
};

static bool same_text(const char *a, const char *b)
{
	return a && b ? streq(a, b) : a == b;
}

static void test_frames(void)
{
	void *ctx = talloc_new(NULL);
	struct frame f;
	for (size_t i = 0; i < COUNT(good); i++) {
		const struct frame *want = &good[i].means;
		CHECK(frame_read(ctx, good[i].bytes, good[i].n, &f));
		CHECK(f.kind == want->kind && f.tag == want->tag && f.number == want->number);
		CHECK(same_text(f.text, want->text) && same_text(f.path, want->path));
		size_t n;
		unsigned char *bytes = frame_write(ctx, want, &n);
		CHECK(n == good[i].n + 4 && bytes[0] == good[i].n && bytes[3] == 0);
		CHECK(memcmp(bytes + 4, good[i].bytes, good[i].n) == 0);
	}
	for (size_t i = 0; i < COUNT(bad); i++)
		CHECK(!frame_read(ctx, bad[i].bytes, bad[i].n, &f));
	talloc_free(ctx);
}

static void test_list(void)
{
	void *ctx = talloc_new(NULL);
	struct frame f = { FRAME_COMMAND, FRAME_ERROR, .text = "CODE" }, back;
	list_add(ctx, &f.params, "one");
	list_add(ctx, &f.params, "");
	size_t n;
	unsigned char *bytes = frame_write(ctx, &f, &n);
	CHECK(frame_read(ctx, bytes + 4, n - 4, &back));
	CHECK(streq(back.text, "CODE") && list_equal(&back.params, &f.params));
	for (size_t cut = 4; cut < n; cut++)
		CHECK(!frame_read(ctx, bytes + 4, cut - 4, &back));
	talloc_free(ctx);
}

/* ---- the body ---- */

static void test_body(void)
{
	struct task *t = task_new(NULL, "test");
	struct thin_request r;
	static const char with_password[] =
		"vm-list\nparams=uuid\n\n--minimal\nusername=root\npassword=a=b\n";
	CHECK(thin_parse_body(t, with_password, sizeof with_password - 1, &r) == 0);
	CHECK(r.args.n == 3 && streq(r.args.v[0], "vm-list") && streq(r.args.v[2], "--minimal"));
	CHECK(streq(r.username, "root") && streq(r.password, "a=b") && !r.session);

	static const char with_session[] = "session_id=OpaqueRef:1\nvm-list\nsession_id=2";
	CHECK(thin_parse_body(t, with_session, sizeof with_session - 1, &r) == 0);
	CHECK(streq(r.session, "OpaqueRef:1") && r.args.n == 2 && !r.username);

	CHECK(thin_parse_body(t, NULL, 0, &r) == 0 && r.args.n == 0);
	CHECK(thin_parse_body(t, "a\0b", 3, &r) == -1);
	task_forgive(t);
	CHECK(thin_parse_body(t, "\xff", 1, &r) == -1);
	task_forgive(t);
	char *lines = talloc_zero_array(t, char, CLI_LINES_LIMIT + 1);
	memset(lines, '\n', CLI_LINES_LIMIT);
	CHECK(thin_parse_body(t, lines, CLI_LINES_LIMIT - 1, &r) == 0);
	CHECK(thin_parse_body(t, lines, CLI_LINES_LIMIT, &r) == -1);
	talloc_free(t);
}

/* ---- the server's side ---- */

/* A client that has all its words ready: what it says first is the greeting. */
struct ends {
	struct task *t;
	int server, client;
	struct thin *th;
};

static void say(struct ends *p, const char *bytes, size_t n)
{
	CHECK(write(p->client, bytes, n) == (ssize_t)n);
}

static struct ends ends_new(void)
{
	struct ends p = { .t = task_new(NULL, "test") };
	int fd[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	p.server = fd[0];
	p.client = fd[1];
	unsigned char greeting[FRAME_GREETING], theirs[FRAME_GREETING];
	frame_greeting(greeting);
	say(&p, (char *)greeting, sizeof greeting);
	p.th = thin_open(p.t, p.server);
	CHECK(p.th && !thin_gone(p.th));
	CHECK(read(p.client, theirs, sizeof theirs) == sizeof theirs);
	CHECK(memcmp(theirs, greeting, sizeof greeting) == 0);
	return p;
}

static void ends_free(struct ends *p)
{
	talloc_free(p->t);
	close(p->server);
	if (p->client >= 0)
		close(p->client);
}

/* The next frame at the client. */
static struct frame heard(struct ends *p)
{
	struct frame f;
	CHECK(frame_receive(p->t, p->t, p->client, 1 << 16, &f) == 1);
	return f;
}

#define OK_FRAME "\x08\0\0\0\x0a\0\0\0\x05\0\0\0"
#define FAILED_FRAME "\x08\0\0\0\x0a\0\0\0\x06\0\0\0"
#define WAIT_FRAME "\x08\0\0\0\x0a\0\0\0\x12\0\0\0"
#define CHUNK_FRAME(n) "\x0c\0\0\0\x0b\0\0\0\x07\0\0\0" n "\0\0\0"
#define END_FRAME "\x08\0\0\0\x0b\0\0\0\x08\0\0\0"

static void test_saying(void)
{
	struct ends p = ends_new();
	const char *params[] = { "a", "b", NULL };
	CHECK(thin_print(p.th, "hello") == 0 && streq(heard(&p).text, "hello"));
	CHECK(thin_error(p.th, "oh") == 0 && heard(&p).tag == FRAME_PRINT_STDERR);
	CHECK(thin_debug(p.th, "x") == 0 && heard(&p).tag == FRAME_DEBUG);
	CHECK(thin_error_code(p.th, "E", params) == 0 && heard(&p).params.n == 2);
	CHECK(thin_error_code(p.th, "E", NULL) == 0 && heard(&p).params.n == 0);
	CHECK(thin_exit(p.th, 1) == 0 && heard(&p).number == 1);

	/* A cancelled task can still tell its user so. */
	p.t->cancellable = true;
	task_interrupt(p.t);
	CHECK(task_check(p.t) == -1 && thin_print(p.th, "cancelled") == 0 && p.t->cancellable);
	p.t->cancellable = false;
	CHECK(streq(heard(&p).text, "cancelled"));
	ends_free(&p);
}

static void test_asking(void)
{
	struct ends p = ends_new();
	size_t n;
	say(&p, BYTES(OK_FRAME CHUNK_FRAME("\x03") "a\0b" CHUNK_FRAME("\x01") "c" END_FRAME));
	char *file = thin_load(p.th, "file", 4, &n);
	CHECK(file && n == 4 && memcmp(file, "a\0bc", 5) == 0);
	CHECK(streq(heard(&p).text, "file"));
	say(&p, BYTES(CHUNK_FRAME("\x04") "yes\n" END_FRAME));
	char *line = thin_prompt(p.th);
	CHECK(line && streq(line, "yes") && heard(&p).tag == FRAME_PROMPT);
	say(&p, BYTES(WAIT_FRAME WAIT_FRAME OK_FRAME OK_FRAME OK_FRAME));
	CHECK(thin_get(p.th, "f", "/g") == 0 && streq(heard(&p).path, "/g"));
	CHECK(thin_put(p.th, "f", "/p") == 0 && heard(&p).tag == FRAME_HTTP_PUT);
	CHECK(thin_connect(p.th, "/c") == 0 && streq(heard(&p).path, "/c"));
	/* No is an answer, too. */
	say(&p, BYTES(FAILED_FRAME FAILED_FRAME));
	CHECK(thin_get(p.th, "f", "/g") == -1 && !thin_gone(p.th));
	task_forgive(p.t);
	CHECK(!thin_load(p.th, "f", 4, &n) && !thin_gone(p.th));
	task_forgive(p.t);
	CHECK(thin_exit(p.th, 0) == 0);
	ends_free(&p);
}

static const struct {
	const char *says;
	size_t n;
} liars[] = {
	{ BYTES(OK_FRAME CHUNK_FRAME("\x05") "abcde" END_FRAME) }, /* more than the limit */
	{ BYTES(OK_FRAME CHUNK_FRAME("\x03") "abc" CHUNK_FRAME("\x02") "de" END_FRAME) },
	{ BYTES(OK_FRAME OK_FRAME) },
	{ BYTES(END_FRAME) },
	{ BYTES(OK_FRAME "\xff\xff\xff\xff") },
	{ BYTES(OK_FRAME "\x04\0\0\0\x0b\0\0\0") },
	{ BYTES("\x12\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0hi....") },
	{ BYTES(OK_FRAME CHUNK_FRAME("\x03") "a") }, /* and gone */
	{ BYTES(OK_FRAME) },
	{ BYTES("") },
};

static void test_liars(void)
{
	for (size_t i = 0; i < COUNT(liars); i++) {
		struct ends p = ends_new();
		size_t n;
		say(&p, liars[i].says, liars[i].n);
		shutdown(p.client, SHUT_WR);
		CHECK(!thin_load(p.th, "file", 4, &n));
		CHECK(thin_gone(p.th) && p.t->code == INTERNAL_ERROR);
		task_forgive(p.t);
		CHECK(thin_print(p.th, "x") == -1 && p.t->code == INTERNAL_ERROR);
		ends_free(&p);
	}
}

/* A line that a user types without end is not waited for. */
static void test_long_line(void)
{
	struct ends p = ends_new();
	char frame[] = CHUNK_FRAME("\x00");
	uint32_t n = CLI_PROMPT_LIMIT + 1;
	for (size_t i = 0; i < 4; i++)
		frame[12 + i] = (char)(n >> 8 * i);
	say(&p, frame, 16);
	CHECK(!thin_prompt(p.th) && thin_gone(p.th));
	ends_free(&p);
}

static void test_strangers(void)
{
	static const char *const greetings[] = {
		"", "XenSource thin CLI protocol", "GET / HTTP/1.1\r\nHost: somebody\r\n\r\nxxxxxxx"
	};
	for (size_t i = 0; i < COUNT(greetings); i++) {
		struct task *t = task_new(NULL, "test");
		int fd[2];
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
		CHECK(io_write(t, fd[1], greetings[i], strlen(greetings[i]), 0) == 0);
		shutdown(fd[1], SHUT_WR);
		CHECK(!thin_open(t, fd[0]) && t->code == INTERNAL_ERROR);
		close(fd[0]);
		close(fd[1]);
		talloc_free(t);
	}
}

static void *go_away(void *fd)
{
	close(*(int *)fd);
	return NULL;
}

static void test_watch(void)
{
	struct ends p = ends_new();
	struct task *work = task_new(NULL, "work");
	work->cancellable = true;
	CHECK(thin_watch(p.th, work) == 0);
	say(&p, BYTES(OK_FRAME)); /* words alone mean nothing */
	CHECK(task_wait(work, -1, 0, 50) == 0);
	thin_unwatch(p.th);
	thin_unwatch(p.th);

	CHECK(thin_watch(p.th, work) == 0);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, go_away, &p.client) == 0);
	CHECK(task_wait(work, -1, 0, 5000) == -1 && work->code == TASK_CANCELLED);
	pthread_join(thread, NULL);
	p.client = -1;
	thin_unwatch(p.th);
	CHECK(thin_print(p.th, "to nobody") == -1 && thin_gone(p.th));
	talloc_free(work);
	ends_free(&p);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	test_frames();
	test_list();
	test_body();
	test_saying();
	test_asking();
	test_liars();
	test_long_line();
	test_strangers();
	test_watch();
	return 0;
}
