// SPDX-License-Identifier: Apache-2.0
/* test_xe.c -- the xe program (argv[1]) against a server whose commands do one thing each. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/coding.h"
#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "cli/thin.h"
#include "unit/check.h"
#include "wire/http.h"

enum { DISK = 3 << 20 };

static const char *xe;
static char disk[DISK]; /* what /disk gives: a hole in the middle */
static _Atomic bool cancelled;
static _Atomic bool ended; /* the last body, with something that told so */

/* ---- the server ---- */

static const char *value(const struct thin_request *r, const char *key)
{
	for (size_t i = 0; i < r->args.n; i++) {
		size_t n = strlen(key);
		if (starts_with(r->args.v[i], key) && r->args.v[i][n] == '=')
			return r->args.v[i] + n + 1;
	}
	return "";
}

static void do_words(struct thin *th, struct task *t, struct thin_request *r)
{
	thin_print(th, list_join(t, &r->args, "|"));
	thin_print(th, str(t, "%s/%s", r->username ? r->username : "-",
			   r->password ? r->password : "-"));
	thin_exit(th, 0);
}

static void do_errors(struct thin *th, struct task *t, struct thin_request *r)
{
	static const char *const params[] = { "one", "two", NULL };
	(void)t, (void)r;
	thin_debug(th, "a debug line");
	thin_error(th, "on stderr");
	thin_error_code(th, "CODE", params);
	thin_exit(th, 1);
}

static void do_ask(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)r;
	const char *first = thin_prompt(th), *second = thin_prompt(th);
	thin_print(th, str(t, "%s,%s", first, second));
	thin_exit(th, 0);
}

static void do_load(struct thin *th, struct task *t, struct thin_request *r)
{
	size_t n;
	const char *file = thin_load(th, value(r, "file"), 1 << 20, &n);
	thin_print(th, file ? str(t, "%zu bytes: %.10s", n, file) : "none");
	thin_exit(th, file ? 0 : 1);
}

/* A server that is after something nobody named. */
static void do_steal(struct thin *th, struct task *t, struct thin_request *r)
{
	size_t n;
	(void)r;
	bool stolen = thin_load(th, "/etc/hostname", 1 << 20, &n);
	task_forgive(t);
	stolen |= thin_put(th, "/etc/hostname", "/sink") == 0;
	task_forgive(t);
	stolen |= thin_get(th, "planted", "/disk") == 0;
	thin_exit(th, stolen ? 0 : 3);
}

static void do_get(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)t;
	thin_exit(th, thin_get(th, value(r, "file"), value(r, "from")) < 0 ? 1 : 0);
}

static void do_put(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)t;
	thin_exit(th, thin_put(th, value(r, "file"), value(r, "to")) < 0 ? 1 : 0);
}

static void do_console(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)t, (void)r;
	thin_exit(th, thin_connect(th, "/shout") < 0 ? 1 : 0);
}

static void do_sleep(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)r;
	t->cancellable = true;
	thin_watch(th, t);
	thin_print(th, "sleeping");
	cancelled = task_wait(t, -1, 0, 10000) < 0;
	thin_unwatch(th);
}

static void do_vanish(struct thin *th, struct task *t, struct thin_request *r)
{
	(void)th, (void)t, (void)r;
}

static const struct {
	const char *name;
	void (*run)(struct thin *, struct task *, struct thin_request *);
} commands[] = {
	{ "words", do_words },   { "errors", do_errors },   { "ask", do_ask },
	{ "load", do_load },     { "steal", do_steal },     { "get", do_get },
	{ "put", do_put },       { "console", do_console }, { "sleep", do_sleep },
	{ "vanish", do_vanish },
};

static void serve_cli(struct task *t, struct request *req)
{
	size_t n;
	struct thin_request r;
	char *body = http_body(t, req, 1 << 16, &n);
	CHECK(body && thin_parse_body(t, body, n, &r) == 0);
	struct thin *th = thin_open(t, req->fd);
	for (size_t i = 0; th && r.args.n && i < COUNT(commands); i++)
		if (streq(commands[i].name, r.args.v[0]))
			commands[i].run(th, t, &r);
}

static void serve_disk(struct task *t, struct request *req)
{
	http_answer(t, req, 200, "application/octet-stream", "", disk, sizeof disk);
}

static void serve_short(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\nonly this";
	io_write(t, req->fd, head, sizeof head - 1, 1000);
}

static void serve_redirect(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 302 Found\r\nLocation: /disk\r\n\r\n";
	io_write(t, req->fd, head, sizeof head - 1, 1000);
}

static void serve_circle(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 302 Found\r\nLocation: /circle\r\n\r\n";
	io_write(t, req->fd, head, sizeof head - 1, 1000);
}

/* Takes what is the disk, and complains of anything else. */
static void serve_sink(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n\r\n", sorry[] = "Error: IT_DIFFERS: a, b\n";
	char *got = talloc_zero_array(t, char, DISK + 1);
	size_t want = req->body_length < 0 ? DISK + 1 : (size_t)req->body_length;
	struct coding coding = { 0 };
	io_write(t, req->fd, head, sizeof head - 1, 1000);
	ssize_t n = want > DISK + 1 ? -1
		    : req->chunked  ? coding_read(t, req->fd, &coding, got, want)
				    : io_read(t, req->fd, got, want, 5000);
	ended = req->body_length >= 0 || coding.over;
	if (n != DISK || memcmp(got, disk, DISK))
		io_write(t, req->fd, sorry, sizeof sorry - 1, 1000);
}

/* As XenServer's. */
static void serve_old_sink(struct task *t, struct request *req)
{
	if (req->chunked)
		http_refuse(t, req, 403, "no chunks");
	else
		serve_sink(t, req);
}

static void serve_shout(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n\r\n";
	io_write(t, req->fd, head, sizeof head - 1, 1000);
	for (char c; read(req->fd, &c, 1) == 1 && c != '.';) {
		c = (char)(c - 'a' + 'A');
		CHECK(write(req->fd, &c, 1) == 1);
	}
}

static const struct route routes[] = {
	{ "POST", "/cli", serve_cli },
	{ "GET", "/disk", serve_disk },
	{ "GET", "/short", serve_short },
	{ "GET", "/redirect", serve_redirect },
	{ "GET", "/circle", serve_circle },
	{ "PUT", "/sink", serve_sink },
	{ "CONNECT", "/shout", serve_shout },
	{ "PUT", "/old-sink", serve_old_sink },
	{ 0 },
};

/* ---- running xe ---- */

/* Runs it with these words (and text as its standard input): standard output and error are
 * compared with what is given, each unless NULL. */
#define XE(t, status, in, out, err, ...)                                                           \
	CHECK(xe_does(t, (const char *const[]){ xe, __VA_ARGS__, NULL }, status, in, out, err))

static int input(struct task *t, const char *text)
{
	int fd[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	CHECK(io_write(t, fd[1], text, strlen(text), 1000) == 0);
	shutdown(fd[1], SHUT_WR);
	close(fd[1]);
	return fd[0];
}

static bool xe_does(struct task *t, const char *const *argv, int status, const char *in,
		    const char *out, const char *err)
{
	struct run r = {
		.argv = argv, .in = in ? input(t, in) : -1, .out = -1, .timeout_ms = 20000
	};
	CHECK(run(t, &r) == 0);
	fd_close(&r.in);
	const char *got = r.ret_out ? r.ret_out : "", *said = r.ret_err ? r.ret_err : "";
	if (r.ret_status == status && (!out || streq(got, out)) && (!err || strstr(said, err)))
		return true;
	fprintf(stderr, "%s: status %d, output: %s\nerrors: %s\n", argv[1], r.ret_status, got,
		said);
	return false;
}

static void test_options(struct task *t)
{
	CHECK(file_write(t, ".xe", "# mine\nusername=home\ndebug=false\nlast=one\n", 0600) == 0);
	CHECK(file_write(t, "pw", "fred\nsec=ret\n", 0600) == 0);
	XE(t, 0, NULL, "words|a=b|--minimal|last=one\n-/-\n", "", "words", "a=b", "--minimal");
	XE(t, 0, NULL, "words|last=one\nhome/x\n", "", "words", "-pw", "x");
	XE(t, 0, NULL, "words|last=one\nme/x\n", "", "-u", "me", "words", "password=x");
	setenv("XE_EXTRA_ARGS", "username=env,-pw,a\\,b,more", 1);
	XE(t, 0, NULL, "words|more|last=one\nenv/a,b\n", "", "words");
	XE(t, 0, NULL, "words|more|last=one\nme/a,b\n", "", "words", "-u", "me");
	unsetenv("XE_EXTRA_ARGS");
	CHECK(file_delete(t, ".xe") == 0);
	XE(t, 0, NULL, "words\nfred/sec=ret\n", "", "words", "-pwf", "pw");
	XE(t, 0, NULL, "words|\xc3\xa4 b\n-/-\n", "", "words", "\xc3\xa4 b");
	XE(t, 1, NULL, "", "needs a value", "words", "-u");
	XE(t, 1, NULL, "", "line break", "words", "a\nb");
	XE(t, 1, NULL, "", "neither true nor false", "words", "debug=maybe");
	XE(t, 1, NULL, "", "gone", "words", "-pwf", "gone");
}

static void test_usage(struct task *t)
{
	struct run r = { .argv = RUN_ARGV(xe), .in = -1, .out = -1, .timeout_ms = 20000 };
	CHECK(run(t, &r) == 0 && r.ret_status == 0 && starts_with(r.ret_out, "Usage: xe "));
	XE(t, 0, NULL, NULL, "", "--help");
	r.argv = RUN_ARGV(xe, "-version");
	CHECK(run(t, &r) == 0 && r.ret_status == 0);
	CHECK(starts_with(r.ret_out, "xe ") && ends_with(r.ret_out, "\nThinCLI protocol: 0.2\n"));
}

static void test_hosts(struct task *t)
{
	const char *port = str(t, "%d", http_port(HTTP_TCP));
	XE(t, 1, NULL, "", "Username/password must be specified", "words", "-s", "127.0.0.1");
	XE(t, 1, NULL, "", "plain port", "words", "-s", "127.0.0.1", "-p", port, "-pw", "x");
	XE(t, 0, NULL, "words\nroot/x\n", "", "words", "-s", "127.0.0.1", "-p", port, "--nossl",
	   "-pw", "x");
	XE(t, 0, NULL, "words\nroot/x\n", "", "words", "-h", "localhost", "-p", port, "--nossl",
	   "-pw", "x");
	XE(t, 1, NULL, "", "127.0.0.1:1: Connection refused", "words", "-s", "127.0.0.1", "-p", "1",
	   "--nossl", "-pw", "x");
	setenv("STILLFRAME_STATE", "/nowhere", 1);
	XE(t, 1, NULL, "", "STILLFRAME_STATE", "words");
	setenv("STILLFRAME_STATE", ".", 1);
}

static void test_talk(struct task *t)
{
	XE(t, 1, NULL, "", "on stderr\nError code: CODE\nError parameters: one, two\n", "errors");
	XE(t, 1, NULL, "", "a debug line\non stderr\n", "errors", "--debug");
	XE(t, 1, NULL, "", "one, two\na debug line\n", "errors", "--debug-on-fail");
	XE(t, 0, "yes\nno\nmore", "yes,no\n", "", "ask");
	XE(t, 1, NULL, "", "nobody can answer", "ask");
	XE(t, 1, "yes\n", "", "nobody can answer", "ask");
	XE(t, 1, NULL, "", "lost before the command had ended", "vanish");
}

static void test_load(struct task *t, const char *here)
{
	CHECK(file_write(t, "small", "0123456789abc", 0600) == 0);
	XE(t, 0, NULL, "13 bytes: 0123456789\n", "", "load", "file=small");
	XE(t, 0, NULL, "13 bytes: 0123456789\n", "", "load", str(t, "file=%s/small", here));
	XE(t, 1, NULL, "none\n", "No such file", "load", "file=missing");
	XE(t, 1, NULL, "none\n", "Is a directory", "load", "file=/etc");
	XE(t, 3, NULL, "", "/etc/hostname, which is not on the command line", "steal");
	CHECK(!file_exists("planted"));
}

static bool is_the_disk(const char *path)
{
	static char got[DISK + 1];
	FD_SCOPE int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	for (ssize_t more = 1; more > 0 && n < sizeof got; n += (size_t)more)
		CHECK((more = read(fd, got + n, sizeof got - n)) >= 0);
	return n == DISK && memcmp(got, disk, DISK) == 0;
}

static void test_get(struct task *t)
{
	struct stat st;
	XE(t, 0, NULL, "", "", "get", "file=a", "from=/disk");
	CHECK(is_the_disk("a") && stat("a", &st) == 0 && (st.st_mode & 0777) == 0600);
	CHECK(st.st_blocks * 512 <= 2 * (DISK / 3) + 65536);
	XE(t, 0, NULL, "", "", "get", "file=b", "from=/redirect");
	CHECK(is_the_disk("b"));
	XE(t, 1, NULL, "", "a: File exists", "get", "file=a", "from=/disk");
	CHECK(is_the_disk("a"));
	XE(t, 1, NULL, "", "9 bytes of 1000000", "get", "file=c", "from=/short");
	XE(t, 1, NULL, "", "404", "get", "file=c", "from=/nothing");
	XE(t, 1, NULL, "", "for ever", "get", "file=c", "from=/circle");
	XE(t, 1, NULL, "", "blanks", "get", "file=c", "from=/a b");
	XE(t, 1, NULL, "", "cannot go there", "get", "file=c", "from=ftp://127.0.0.1/disk");
	CHECK(!file_exists("c"));

	FD_SCOPE int out = open("d", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct run r = { .argv = RUN_ARGV(xe, "get", "file=", "from=/disk"),
			 .in = -1,
			 .out = out,
			 .timeout_ms = 20000 };
	CHECK(run(t, &r) == 0 && r.ret_status == 0 && is_the_disk("d"));
}

/* What came by then is not taken for all. */
static void killed_in_the_middle(struct task *t)
{
	const char *const *argv = RUN_ARGV(xe, "put", "file=", "to=/sink");
	int fd[2];
	pid_t pid;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	CHECK(run_start(t, argv, (const int[]){ fd[0], -1, -1, -1 }, &pid) == 0);
	close(fd[0]);
	CHECK(io_write(t, fd[1], disk, 1 << 20, 10000) == 0);
	ended = true;
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, NULL, 0) == pid);
	close(fd[1]);
	for (int i = 0; i < 1000 && ended; i++)
		task_wait(t, -1, 0, 10);
	CHECK(!ended);
}

static void test_put(struct task *t)
{
	XE(t, 0, NULL, "", "", "put", "file=a", "to=/sink");
	CHECK(ended);
	XE(t, 1, NULL, "", "Error: IT_DIFFERS: a, b", "put", "file=small", "to=/sink");
	XE(t, 1, NULL, "", "No such file", "put", "file=missing", "to=/sink");
	XE(t, 1, NULL, "", "405", "put", "file=a", "to=/disk");
	XE(t, 1, NULL, "", "s a directory", "put", "file=/tmp", "to=/sink");
	/* A stream's end is told, where the server can be told. */
	static const struct {
		const char *to;
		bool told;
	} sinks[] = { { "to=/sink", true }, { "to=/old-sink", false } };
	for (size_t i = 0; i < COUNT(sinks); i++) {
		FD_SCOPE int in = open("a", O_RDONLY | O_CLOEXEC);
		struct run r = { .argv = RUN_ARGV(xe, "put", "file=-", sinks[i].to),
				 .in = in,
				 .out = -1,
				 .timeout_ms = 20000 };
		CHECK(run(t, &r) == 0 && r.ret_status == 0 && ended == sinks[i].told);
	}
	killed_in_the_middle(t);
	XE(t, 1, "not it", "", "IT_DIFFERS", "put", "file=", "to=/sink");
}

static void test_console(struct task *t)
{
	int fd[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	CHECK(write(fd[1], "abc.", 4) == 4);
	struct run r = {
		.argv = RUN_ARGV(xe, "console"), .in = fd[0], .out = -1, .timeout_ms = 20000
	};
	CHECK(run(t, &r) == 0 && r.ret_status == 0 && streq(r.ret_out, "ABC"));
	close(fd[0]);
	close(fd[1]);
	XE(t, 0, "", NULL, "", "console"); /* no input, no console */
}

/* Ctrl-C: xe is gone, and the server's command is cancelled. */
static void test_interrupt(void)
{
	char byte;
	int out[2];
	CHECK(pipe2(out, O_CLOEXEC) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl(xe, xe, "sleep", (char *)NULL);
		_exit(127);
	}
	int status;
	CHECK(read(out[0], &byte, 1) == 1 && byte == 's');
	CHECK(kill(pid, SIGINT) == 0 && waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
	for (int i = 0; i < 500 && !cancelled; i++)
		usleep(10000);
	CHECK(cancelled);
	close(out[0]);
	close(out[1]);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	char dir[] = "/tmp/test_xe.XXXXXX", path[4096];
	CHECK(realpath(argv[1], path) && mkdtemp(dir) && chdir(dir) == 0);
	xe = path;
	setenv("STILLFRAME_STATE", ".", 1);
	setenv("HOME", ".", 1);
	unsetenv("XE_EXTRA_ARGS");
	for (size_t i = 0; i < DISK; i++)
		disk[i] = i / (1 << 20) == 1 ? 0 : (char)(i % 251);

	struct task *t = task_new(NULL, "test");
	CHECK(http_serve(t, &(struct http_doors){ .routes = routes,
						  .unix_path = "./xapi.sock",
						  .tcp = "127.0.0.1:0" }) == 0);
	test_options(t);
	test_usage(t);
	test_hosts(t);
	test_talk(t);
	test_load(t, dir);
	test_get(t);
	test_put(t);
	test_console(t);
	test_interrupt();
	http_stop();
	talloc_free(t);
	CHECK(chdir("/") == 0);
	execlp("rm", "rm", "-r", dir, (char *)NULL);
	return 1;
}
