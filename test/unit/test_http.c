// SPDX-License-Identifier: Apache-2.0
/* test_http.c -- heads from bytes, credentials, and the server itself. */
#include "wire/http.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "wire/auth.h"

/* ---- heads ---- */

#define L "\r\n"

static const struct {
	const char *head;
	int status;
} heads[] = {
	{ "GET / HTTP/1.1" L L, 0 },
	{ "POST /cli HTTP/1.0" L "content-length: 5" L L, 0 },
	{ "CONNECT /console?uuid=1 HTTP/1.0" L L, 0 },
	{ "PUT /import HTTP/1.1" L "Transfer-Encoding: chunked" L L, 0 },
	{ "OPTIONS / HTTP/1.1" L "Host: a" L L, 0 },
	{ "GET /a//b/.c/..d/e.. HTTP/1.1" L L, 0 },
	{ "GET /?a=b&&c HTTP/1.1" L L, 0 },
	{ "GET / HTTP/1.1" L "A:" L L, 0 },

	/* the request line */
	{ "GET /" L L, 400 },
	{ "GET  / HTTP/1.1" L L, 400 },
	{ "GET /  HTTP/1.1" L L, 400 },
	{ "GET / HTTP/1.1 " L L, 400 },
	{ " GET / HTTP/1.1" L L, 400 },
	{ "GET\t/ HTTP/1.1" L L, 400 },
	{ "GE(T / HTTP/1.1" L L, 400 },
	{ L "GET / HTTP/1.1" L L, 400 },
	{ "GET / HTTP/1.2" L L, 505 },
	{ "GET / HTTP/2.0" L L, 505 },
	{ "GET / http/1.1" L L, 400 },
	{ "GET / HTTP/1.1x" L L, 505 },

	/* the target */
	{ "GET http://host/ HTTP/1.1" L L, 400 },
	{ "CONNECT host:80 HTTP/1.1" L L, 400 },
	{ "OPTIONS * HTTP/1.1" L L, 400 },
	{ "GET /../etc HTTP/1.1" L L, 400 },
	{ "GET /a/%2e%2e/b HTTP/1.1" L L, 400 },
	{ "GET /a/%2e%2E%2fb HTTP/1.1" L L, 400 },
	{ "GET /a/. HTTP/1.1" L L, 400 },
	{ "GET /%00 HTTP/1.1" L L, 400 },
	{ "GET /?a=%00 HTTP/1.1" L L, 400 },
	{ "GET /%4 HTTP/1.1" L L, 400 },
	{ "GET /%4g HTTP/1.1" L L, 400 },
	{ "GET /% HTTP/1.1" L L, 400 },
	{ "GET /%c3%28 HTTP/1.1" L L, 400 },
	{ "GET /\xc3( HTTP/1.1" L L, 400 },
	{ "GET /?a=1&a=2 HTTP/1.1" L L, 400 },

	/* fields */
	{ "GET / HTTP/1.1" L "A : b" L L, 400 },
	{ "GET / HTTP/1.1" L "A" L L, 400 },
	{ "GET / HTTP/1.1" L ": b" L L, 400 },
	{ "GET / HTTP/1.1" L "A: b" L " c" L L, 400 },
	{ "GET / HTTP/1.1" L " A: b" L L, 400 },
	{ "GET / HTTP/1.1" L "A: b\nC: d" L L, 400 },
	{ "GET / HTTP/1.1" L "A: b\rC: d" L L, 400 },
	{ "GET / HTTP/1.1" L "A: \x01" L L, 400 },
	{ "GET / HTTP/1.1" L "Host: a" L "host: b" L L, 400 },
	{ "GET / HTTP/1.1\n\n", 400 },
	{ "GET / HTTP/1.1" L "A: b" L, 400 },
	{ "", 400 },

	/* where the body ends */
	{ "POST / HTTP/1.1" L "Content-Length: 5" L "Content-Length: 5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: 5, 5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: +5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: -5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: 0x5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: 5 5" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length:" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: 9999999999999999999" L L, 400 },
	{ "POST / HTTP/1.1" L "Content-Length: 5" L "Transfer-Encoding: chunked" L L, 400 },
	{ "POST / HTTP/1.1" L "Transfer-Encoding: chunked" L "Transfer-Encoding: x" L L, 400 },
	{ "POST / HTTP/1.1" L "Transfer-Encoding: gzip, chunked" L L, 501 },
	{ "POST / HTTP/1.1" L "Transfer-Encoding: xchunked" L L, 501 },
	{ "POST / HTTP/1.0" L "Transfer-Encoding: chunked" L L, 400 },
};

static void test_heads(void)
{
	for (size_t i = 0; i < COUNT(heads); i++) {
		void *ctx = talloc_new(NULL);
		struct request req;
		int status = http_parse_head(ctx, heads[i].head, strlen(heads[i].head), &req);
		if (status != heads[i].status)
			fprintf(stderr, "%d, not %d: %s\n", status, heads[i].status, heads[i].head);
		CHECK(status == heads[i].status);
		talloc_free(ctx);
	}
}

static void test_meaning(void)
{
	static const char head[] = "PUT /im%70ort/a+b?vdi=Opaque%3aRef&x=a+b%2B&flag HTTP/1.1" L
				   "Content-LENGTH:  123456789012\t" L "X-Two: a" L "x-two:b c" L L;
	void *ctx = talloc_new(NULL);
	struct request req;
	CHECK(http_parse_head(ctx, head, sizeof head - 1, &req) == 0);
	CHECK(streq(req.method, "PUT") && streq(req.path, "/import/a+b") && req.minor == 1);
	CHECK(streq(map_get(&req.query, "vdi"), "Opaque:Ref"));
	CHECK(streq(map_get(&req.query, "x"), "a b+"));
	CHECK(streq(map_get(&req.query, "flag"), ""));
	CHECK(req.body_length == 123456789012 && !req.chunked && !req.trusted);
	CHECK(streq(map_get(&req.headers, "x-two"), "a, b c"));
	talloc_free(ctx);
}

static void test_head_end(void)
{
	static const char two[] = "GET / HTTP/1.1" L L "GET /";
	CHECK(http_head_end(two, sizeof two - 1) == 18);
	for (size_t n = 0; n < 18; n++)
		CHECK(http_head_end(two, n) == 0);
	CHECK(http_head_end("GET /\n", 6) == -1);
	CHECK(http_head_end("GET /\rx", 7) == -1);
	CHECK(http_head_end("\x16\x03\x01", 3) == -1);
}

static void test_limits(void)
{
	void *ctx = talloc_new(NULL);
	struct request req;
	char *many = talloc_strdup(ctx, "GET / HTTP/1.1" L);
	for (int i = 0; i < HTTP_FIELD_LIMIT; i++)
		many = talloc_asprintf_append(many, "f%d: v" L, i);
	char *more = str(ctx, "%sone: more" L L, many);
	many = talloc_strdup_append(many, L);
	CHECK(http_parse_head(ctx, many, strlen(many), &req) == 0);
	CHECK(http_parse_head(ctx, more, strlen(more), &req) == 431);

	char *pad = talloc_zero_array(ctx, char, HTTP_HEAD_LIMIT);
	memset(pad, 'x', HTTP_HEAD_LIMIT - 1);
	char *longer = str(ctx, "GET / HTTP/1.1" L "a: %s" L L, pad);
	CHECK(http_parse_head(ctx, longer, strlen(longer), &req) == 431);
	talloc_free(ctx);
}

static void test_basic(void)
{
	void *ctx = talloc_new(NULL);
	const char *user = "", *password = "";
	CHECK(auth_basic(ctx, "Basic cm9vdDpzZTpjcmV0", &user, &password));
	CHECK(streq(user, "root") && streq(password, "se:cret"));
	CHECK(auth_basic(ctx, "basic  cm9vdDo=", &user, &password) && !*password);
	CHECK(!auth_basic(ctx, "Basic cm9vdA==", &user, &password));
	CHECK(!auth_basic(ctx, "Basic cm9v!Do=", &user, &password));
	CHECK(!auth_basic(ctx, "Basic cm9vdDoA", &user, &password));
	CHECK(!auth_basic(ctx, "Basic cm9vdDo=x", &user, &password));
	CHECK(!auth_basic(ctx, "Basic c", &user, &password));
	CHECK(!auth_basic(ctx, "Basic ", &user, &password));
	CHECK(!auth_basic(ctx, "Bearer cm9vdDo=", &user, &password));
	talloc_free(ctx);
}

/* ---- the server ---- */

static void serve_echo(struct task *t, struct request *req)
{
	size_t n;
	char *body = http_body(t, req, 1000, &n);
	if (body)
		http_answer(t, req, 200, "text/plain", "", body, n);
}

static void serve_name(struct task *t, struct request *req)
{
	const char *text = str(t, "%s trusted=%d", req->path, req->trusted);
	http_answer(t, req, 200, "text/plain", "X-More: yes" L, text, strlen(text));
}

/* What is behind the head can still be read from the socket, all of it. */
static void serve_rest(struct task *t, struct request *req)
{
	char rest[5];
	CHECK(io_read(t, req->fd, rest, sizeof rest, 5000) == 5);
	http_answer(t, req, 200, "text/plain", "", rest, sizeof rest);
}

static _Atomic bool serves_for_ever;

static void serve_for_ever(struct task *t, struct request *req)
{
	(void)req;
	serves_for_ever = true;
	t->cancellable = true;
	CHECK(task_wait(t, -1, 0, -1) == -1 && t->code == TASK_CANCELLED);
}

static const struct route routes[] = {
	{ "POST", "/echo", serve_echo, true, 1000 },
	{ "POST", "/read", serve_echo, true },
	{ "GET", "/", serve_name, true },
	{ "GET", "/files/...", serve_name, true },
	{ "PUT", "/files/...", serve_name, true },
	{ "GET", "/files/special", serve_rest },
	{ "CONNECT", "/rest", serve_rest },
	{ "GET", "/for-ever", serve_for_ever },
	{ 0 },
};

/* Sends the bytes, and gives what comes back. */
static char *talk(struct task *t, int fd, const char *bytes)
{
	char *answer = talloc_zero_array(t, char, 4096);
	CHECK(io_write(t, fd, bytes, strlen(bytes), 1000) == 0);
	shutdown(fd, SHUT_WR);
	CHECK(io_read(t, fd, answer, 4095, 5000) >= 0);
	close(fd);
	return answer;
}

/* The bytes of the first answer in the text, as its head says; 0: it is not whole. */
static size_t answer_size(const char *text)
{
	const char *end = strstr(text, L L), *length = strstr(text, "Content-Length: ");
	size_t head = end ? (size_t)(end - text) + 4 : 0;
	if (!end || !length || length > end)
		return 0;
	size_t size = head + strtoul(length + strlen("Content-Length: "), NULL, 10);
	return strlen(text) >= size ? size : 0;
}

/* So many answers, and nothing behind them, of a connection that may stay open. */
static char *hear(struct task *t, int fd, int wanted)
{
	char *answers = talloc_zero_array(t, char, 4096), *next = answers;
	for (size_t n = 0; wanted > 0;) {
		ssize_t got = recv(fd, answers + n, 4095 - n, 0);
		CHECK(got > 0);
		n += (size_t)got;
		for (size_t size; wanted > 0 && (size = answer_size(next)) > 0; wanted--) {
			CHECK(starts_with(next, "HTTP/1.1 "));
			next += size;
		}
	}
	CHECK(!*next);
	return answers;
}

static int tcp_connect_from(uint32_t address)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)http_port(HTTP_TCP)) },
			   own = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(address) };
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(fd, (struct sockaddr *)&own, sizeof own) == 0);
	CHECK(connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
	return fd;
}

static int tcp_connect(void)
{
	return tcp_connect_from(INADDR_LOOPBACK);
}

static bool answers(struct task *t, const char *path, const char *bytes, const char *status,
		    const char *end)
{
	char *answer = talk(t, path ? unix_connect(t, path) : tcp_connect(), bytes);
	if (starts_with(answer, str(t, "HTTP/1.1 %s ", status)) && ends_with(answer, end))
		return true;
	fprintf(stderr, "to %s: %s\n", bytes, answer);
	return false;
}

static void test_routes(struct task *t, const char *s)
{
	CHECK(answers(t, s, "POST /echo HTTP/1.1" L "Content-Length: 3" L L "abc", "200",
		      L L "abc"));
	CHECK(answers(t, s, "POST /read HTTP/1.1" L "Content-Length: 3" L L "abc", "200",
		      L L "abc"));
	CHECK(answers(t, s, "POST /read HTTP/1.1" L "Content-Length: 1001" L L, "413", "\n"));
	CHECK(answers(t, s, "GET / HTTP/1.1" L L, "200", "/ trusted=1"));
	CHECK(answers(t, NULL, "GET / HTTP/1.1" L L, "200", "/ trusted=0"));
	CHECK(answers(t, s, "GET /files/x HTTP/1.0" L L, "200", "/files/x trusted=1"));
	CHECK(answers(t, s, "GET /files/special HTTP/1.0" L L "12345", "200", L L "12345"));
	CHECK(answers(t, s, "CONNECT /rest HTTP/1.0" L L "12345", "200", L L "12345"));
	CHECK(answers(t, s, "GET /nothing HTTP/1.1" L L, "404", "\n"));
	CHECK(answers(t, s, "GET /echo HTTP/1.1" L L, "405", "\n"));
	CHECK(answers(t, s, "POST /files/x HTTP/1.1" L L, "405", "\n"));
	CHECK(answers(t, s, "POST /echo HTTP/1.1" L L, "411", "\n"));
	CHECK(answers(t, s, "POST /echo HTTP/1.1" L "Content-Length: 1001" L L, "413", "\n"));
	CHECK(answers(t, s, "GET / HTTP/1.1" L "a: b\n", "400", "\n"));
	CHECK(answers(t, s, "GET / HTTP/3.0" L L, "505", "\n"));
	char *answer = talk(t, unix_connect(t, s), "GET /echo HTTP/1.1" L L);
	CHECK(strstr(answer, "Allow: POST" L));
	answer =
		talk(t, tcp_connect(),
		     "POST /echo HTTP/1.1" L "Expect: 100-continue" L "Content-Length: 2" L L "ok");
	CHECK(starts_with(answer, "HTTP/1.1 100 Continue" L L "HTTP/1.1 200 OK" L));
}

/* Several requests on one connection, also when the next one is sent before the answer has come; and its end where
 * the client wants that, or its body was not read. */
static void test_kept(struct task *t)
{
	static const char get[] = "GET /files/x HTTP/1.1" L L;
	static const char post[] = "POST /echo HTTP/1.1" L "Content-Length: 3" L L "abc";
	static const char *const last[] = {
		"GET / HTTP/1.1" L "Connection: close" L L,
		"GET / HTTP/1.0" L L,
		"GET /nothing HTTP/1.1" L L,
		"PUT /files/x HTTP/1.1" L "Content-Length: 3" L L,
		"POST /echo HTTP/1.1" L "Content-Length: 1001" L L,
		"GET / HTTP/3.0" L L,
	};
	for (size_t i = 0; i < COUNT(last); i++) {
		int fd = tcp_connect();
		for (int n = 0; n < 3; n++) {
			CHECK(io_write(t, fd, post, sizeof post - 1, 1000) == 0);
			char *answer = hear(t, fd, 1);
			CHECK(strstr(answer, "Connection: keep-alive" L) &&
			      ends_with(answer, L L "abc"));
		}
		CHECK(io_write(t, fd, get, sizeof get - 1, 1000) == 0);
		CHECK(io_write(t, fd, post, sizeof post - 1, 1000) == 0);
		char *both = hear(t, fd, 2);
		CHECK(strstr(both, "/files/x trusted=0HTTP/1.1 200") && ends_with(both, L L "abc"));
		CHECK(io_write(t, fd, last[i], strlen(last[i]), 1000) == 0);
		CHECK(strstr(hear(t, fd, 1), "Connection: close" L));
		char byte;
		CHECK(recv(fd, &byte, 1, 0) <= 0);
		close(fd);
	}
	int fd = tcp_connect();
	static const char old[] = "GET / HTTP/1.0" L "Connection: Keep-Alive" L L;
	for (int n = 0; n < 2; n++) {
		CHECK(io_write(t, fd, old, sizeof old - 1, 1000) == 0);
		CHECK(strstr(hear(t, fd, 1), "Connection: keep-alive" L));
	}
	close(fd);
}

static void test_slow_head(struct task *t, const char *path)
{
	static const char text[] = "CONNECT /rest HTTP/1.0" L "a: b" L L "12";
	int fd = unix_connect(t, path);
	for (const char *p = text; *p; p++) {
		CHECK(write(fd, p, 1) == 1);
		poll(NULL, 0, 1);
	}
	char *answer = talk(t, fd, "345");
	CHECK(ends_with(answer, L L "12345"));
}

/* Head and body come bit by bit, and what is behind them is the next request's. */
static void test_slow_body(struct task *t)
{
	static const char text[] = "POST /echo HTTP/1.1" L "Content-Length: 12" L L "abcdefghijkl"
				   "POST /echo HTTP/1.1" L "Content-Length: 2" L L "mn";
	int fd = tcp_connect();
	for (const char *p = text; *p; p++) {
		CHECK(write(fd, p, 1) == 1);
		poll(NULL, 0, 1);
	}
	char *both = hear(t, fd, 2);
	CHECK(strstr(both, L L "abcdefghijklHTTP/1.1 200") && ends_with(both, L L "mn"));
	close(fd);
}

static int threads(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");
	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Hundreds that are slow have no threads, and hold up nobody; nor does one that has its answers lie there. */
static void test_slow_crowd(struct task *t)
{
	static const char *const slow[] = {
		"POST /echo HTTP/1.1" L "Content-Length: 12" L L "abc",
		"POST /echo HTTP/1.1" L "Conte",
		"POST /echo HTTP/1.1" L "Content-Length: 12" L "Expect: 100-continue" L L,
	};
	int fd[600], before = threads();
	for (size_t i = 0; i < COUNT(fd); i++) {
		const char *said = slow[i % COUNT(slow)];
		fd[i] = tcp_connect_from(INADDR_LOOPBACK + (i < 300 ? 1 : 2));
		CHECK(write(fd[i], said, strlen(said)) == (ssize_t)strlen(said));
	}
	CHECK(answers(t, NULL, "POST /echo HTTP/1.1" L "Content-Length: 1" L L "x", "200", "x"));
	CHECK(threads() < before + 50);
	char go_on[64] = "";
	CHECK(recv(fd[2], go_on, sizeof go_on - 1, 0) > 0 && streq(go_on, HTTP_GO_ON));
	for (size_t i = 0; i < COUNT(fd); i++)
		close(fd[i]);
}

static void test_big_head(struct task *t, const char *path)
{
	char *pad = talloc_zero_array(t, char, HTTP_HEAD_LIMIT + 1);
	memset(pad, 'x', HTTP_HEAD_LIMIT);
	CHECK(answers(t, path, str(t, "GET / HTTP/1.1" L "a: %s" L L, pad), "431", "\n"));
}

static void *one_client(void *path)
{
	struct task *t = task_new(NULL, "client");
	for (int i = 0; i < 20; i++)
		CHECK(answers(t, path, "GET / HTTP/1.1" L L, "200", "trusted=1"));
	talloc_free(t);
	return NULL;
}

static void test_many(char *path)
{
	pthread_t thread[8];
	for (size_t i = 0; i < COUNT(thread); i++)
		CHECK(pthread_create(&thread[i], NULL, one_client, path) == 0);
	for (size_t i = 0; i < COUNT(thread); i++)
		pthread_join(thread[i], NULL);
}

static int closed_ones(const int *fd, size_t n)
{
	int closed = 0;
	for (size_t i = 0; i < n; i++) {
		struct pollfd p = { .fd = fd[i], .events = POLLIN };
		closed += poll(&p, 1, 0);
	}
	return closed;
}

/* Until so many have been closed: or more, for those that say nothing for 10 s are, too. */
static bool wait_closed(const int *fd, size_t n, int wanted)
{
	for (int i = 0; i < 600 && closed_ones(fd, n) < wanted; i++)
		poll(NULL, 0, 50);
	return closed_ones(fd, n) >= wanted;
}

/* However many idle connections there are, only so many are kept, in all and of one address; the local socket answers, and
 * who has fewer gets in, in the place of who has more. */
static void test_crowd(struct task *t, const char *path)
{
	enum { OF_ONE = 2450, ALL = 3100 };
	static int fd[ALL];
	struct rlimit files = { 8192, 8192 };
	if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
		fprintf(stderr, "not so many files can be open: no crowd\n");
		return;
	}
	for (size_t i = 0; i < OF_ONE; i++)
		fd[i] = tcp_connect();
	CHECK(wait_closed(fd, OF_ONE, 50));
	for (size_t i = OF_ONE; i < ALL; i++)
		fd[i] = tcp_connect_from(INADDR_LOOPBACK + 1);
	CHECK(answers(t, path, "GET / HTTP/1.1" L L, "200", "trusted=1"));
	char *third = talk(t, tcp_connect_from(INADDR_LOOPBACK + 2), "GET /files/x HTTP/1.1" L L);
	CHECK(ends_with(third, "/files/x trusted=0"));
	CHECK(wait_closed(fd, ALL, 100));
	for (size_t i = 0; i < COUNT(fd); i++)
		close(fd[i]);
}

static void test_server(void)
{
	char dir[] = "/tmp/test_http.XXXXXX";
	CHECK(mkdtemp(dir));
	struct task *t = task_new(NULL, "test");
	char *path = str(t, "%s/sock", dir);
	CHECK(http_serve(t, &(struct http_doors){ .routes = routes,
						  .unix_path = path,
						  .tcp = "127.0.0.1:0" }) == 0);
	test_routes(t, path);
	test_kept(t);
	test_slow_head(t, path);
	test_slow_body(t);
	test_big_head(t, path);
	test_many(path);
	test_crowd(t, path);
	test_slow_crowd(t);

	/* Stopping does not wait for anybody. */
	int waiting = unix_connect(t, path), silent = tcp_connect();
	static const char request[] = "GET /for-ever HTTP/1.1" L L;
	CHECK(write(waiting, request, sizeof request - 1) == sizeof request - 1);
	for (int i = 0; i < 600 && !serves_for_ever; i++)
		poll(NULL, 0, 50);
	int64_t start = clock_ms();
	http_stop();
	CHECK(clock_ms() - start < 3000);
	char byte;
	CHECK(read(waiting, &byte, 1) == 0 && read(silent, &byte, 1) <= 0);
	CHECK(!file_exists(path));
	close(waiting);
	close(silent);

	/* And it can be started again; a socket that is in use is an error. */
	CHECK(http_serve(t, &(struct http_doors){ .routes = routes, .unix_path = path }) == 0);
	CHECK(answers(t, path, "GET / HTTP/1.1" L L, "200", "trusted=1"));
	http_stop();
	CHECK(http_serve(t, &(struct http_doors){
				    .routes = routes, .unix_path = path, .tcp = "nowhere" }) == -1);
	talloc_free(t);
	rmdir(dir);
}

int main(void)
{
	test_heads();
	test_meaning();
	test_head_end();
	test_limits();
	test_basic();
	test_server();
	return 0;
}
