// SPDX-License-Identifier: Apache-2.0
/* test_tls.c -- a server and its clients in one process: bytes, ends, and peers that do as they like. */
#include "base/tls.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "wire/certificate.h"

enum { MUCH = 6 << 20, WAIT_MS = 20000 };

static struct tls *server;
static int listener;
static uint16_t port;

static void listen_somewhere(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof sa;
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(bind(listener, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(listener, 200) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&sa, &n) == 0);
	port = ntohs(sa.sin_port);
}

static int raw_connect(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
	return fd;
}

/* The server's plain end of the next connection. */
static int take(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), plain = tls_accept(server, fd);
	CHECK(fd >= 0 && plain >= 0);
	return plain;
}

/* Both plain ends. */
static void both(struct task *t, int *ret_ours, int *ret_theirs)
{
	unsigned char print[TLS_FINGERPRINT];
	int fd = raw_connect();
	*ret_theirs = take();
	*ret_ours = tls_connect(t, fd, "localhost", print);
	if (*ret_ours < 0)
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(*ret_ours >= 0);
}

static void says(struct task *t, int from, int to, const char *text)
{
	char got[100];
	size_t n = strlen(text);
	CHECK(io_write(t, from, text, n, WAIT_MS) == 0);
	CHECK(io_read(t, to, got, n, WAIT_MS) == (ssize_t)n && memcmp(got, text, n) == 0);
}

static bool is_over(struct task *t, int fd)
{
	char byte;
	return io_read(t, fd, &byte, 1, WAIT_MS) == 0;
}

/* ---- what is meant to happen ---- */

static void test_words(struct task *t)
{
	int a, b;
	both(t, &a, &b);
	says(t, a, b, "hello");
	says(t, b, a, "you too");
	close(a);
	CHECK(is_over(t, b));
	close(b);
}

/* A process that is forked has all connections until its exec: what comes over one that is over by then is nobody's. */
static void test_forked(struct task *t)
{
	for (int i = 0; i < 50; i++) {
		int raw = raw_connect(), fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC),
		    childs = fcntl(fd, F_DUPFD_CLOEXEC, 0), plain = tls_accept(server, fd);
		CHECK(childs >= 0 && plain >= 0);
		close(plain);
		poll(NULL, 0, i % 5);
		CHECK(io_write(t, raw, "x", 1, WAIT_MS) == 0);
		poll(NULL, 0, i % 3);
		close(raw);
		poll(NULL, 0, i % 3);
		close(childs);
	}
}

/* Each direction ends by itself. */
static void test_halves(struct task *t)
{
	int a, b;
	both(t, &a, &b);
	CHECK(shutdown(a, SHUT_WR) == 0 && is_over(t, b));
	says(t, b, a, "late");
	CHECK(shutdown(b, SHUT_WR) == 0 && is_over(t, a));
	close(a);
	close(b);
}

/* What was written before the close arrives. */
static void test_last_words(struct task *t)
{
	int a, b;
	char *much = talloc_zero_size(t, MUCH);
	both(t, &a, &b);
	int size = 1 << 20;
	setsockopt(b, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	CHECK(io_write(t, b, much, 200000, WAIT_MS) == 0);
	close(b);
	CHECK(io_read(t, a, much, MUCH, WAIT_MS) == 200000);
	close(a);
}

struct stream {
	int fd;
	unsigned seed;
};

static unsigned char byte_at(unsigned seed, size_t i)
{
	return (unsigned char)((i * 2654435761u) >> 13 ^ seed);
}

static void *send_much(void *arg)
{
	struct stream *s = arg;
	struct task *t = task_new(NULL, "sender");
	unsigned char *bytes = talloc_array(t, unsigned char, MUCH);
	for (size_t i = 0; i < MUCH; i++)
		bytes[i] = byte_at(s->seed, i);
	CHECK(io_write(t, s->fd, bytes, MUCH, WAIT_MS) == 0);
	CHECK(shutdown(s->fd, SHUT_WR) == 0);
	talloc_free(t);
	return NULL;
}

static void receive_much(struct task *t, int fd, unsigned seed)
{
	unsigned char *bytes = talloc_array(t, unsigned char, MUCH);
	size_t wrong = 0;
	CHECK(io_read(t, fd, bytes, MUCH, WAIT_MS) == MUCH);
	for (size_t i = 0; i < MUCH; i++)
		wrong += bytes[i] != byte_at(seed, i);
	CHECK(wrong == 0 && is_over(t, fd));
}

/* Both ways at once, and to a reader who comes late. */
static void test_much(struct task *t)
{
	int a, b;
	both(t, &a, &b);
	struct stream up = { a, 1 }, down = { b, 2 };
	pthread_t threads[2];
	CHECK(pthread_create(&threads[0], NULL, send_much, &up) == 0);
	CHECK(pthread_create(&threads[1], NULL, send_much, &down) == 0);
	usleep(200000);
	receive_much(t, a, 2);
	receive_much(t, b, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	close(a);
	close(b);
}

/* ---- peers ---- */

static void test_garbage(struct task *t)
{
	static const char plain[] = "GET / HTTP/1.0\r\n\r\n";
	int fd = raw_connect(), b = take();
	CHECK(io_write(t, fd, plain, sizeof plain - 1, WAIT_MS) == 0);
	CHECK(is_over(t, b));
	close(b);
	close(fd);
}

static void cut(int fd)
{
	struct linger now = { .l_onoff = 1 };
	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
	close(fd);
}

/* Before the greeting, in it, and a server that has lost interest. */
static void test_cut(struct task *t)
{
	static const char begin[] = "\x16\x03\x01\x02\x00\x01\x00";
	for (int sends = 0; sends < 2; sends++) {
		int fd = raw_connect(), b = take();
		CHECK(!sends || io_write(t, fd, begin, sizeof begin - 1, WAIT_MS) == 0);
		usleep(20000);
		cut(fd);
		CHECK(is_over(t, b));
		close(b);
	}
	int fd = raw_connect(), b = take();
	close(b);
	CHECK(is_over(t, fd));
	close(fd);
}

/* Who reads nothing holds up nobody. */
static void test_deaf(struct task *t)
{
	char waste[65536] = { 0 };
	int a, b, c, d;
	both(t, &a, &b);
	fcntl(b, F_SETFL, O_NONBLOCK);
	for (int quiet = 0; quiet < 20; quiet++) {
		while (write(b, waste, sizeof waste) > 0)
			quiet = 0;
		usleep(5000);
	}
	both(t, &c, &d);
	says(t, c, d, "still here");
	close(a);
	close(b);
	close(c);
	close(d);
}

static void test_no_server(struct task *t)
{
	unsigned char print[TLS_FINGERPRINT];
	struct task *own = task_new(t, "client");
	int fd = raw_connect(), other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	CHECK(io_write(t, other, "220 mail\r\n", 10, WAIT_MS) == 0);
	CHECK(tls_connect(own, fd, "localhost", print) == -1 && own->code == INTERNAL_ERROR);
	CHECK(starts_with(own->params[0], "localhost: "));
	close(other);
}

/* ---- many ---- */

static long resident_kib(struct task *t)
{
	const char *at = strstr(file_read(t, "/proc/self/status", 65536), "VmRSS:");
	return at ? strtol(at + 6, NULL, 10) : 0;
}

static void test_many(struct task *t)
{
	enum { N = 200 };
	int ours[N], theirs[N];
	long before = resident_kib(t);
	for (int i = 0; i < N; i++)
		both(t, &ours[i], &theirs[i]);
	for (int i = 0; i < N; i++)
		says(t, ours[i], theirs[i], "one of many");
	printf("%d connections, both ends: %ld KiB each\n", N, (resident_kib(t) - before) / N);
	for (int i = 0; i < N; i++) {
		close(ours[i]);
		CHECK(is_over(t, theirs[i]));
		close(theirs[i]);
	}
}

static void test_certificate(struct task *t, const char *dir)
{
	const char *pem = str(t, "%s/tls.pem", dir), *none = str(t, "%s/none.pem", dir);
	struct stat st;
	CHECK(certificate_make(t, pem) == 0 && stat(pem, &st) == 0 && (st.st_mode & 07777) == 0600);
	CHECK(!tls_server(t, none) && t->code == INVALID_VALUE && streq(t->params[0], none));
	task_forgive(t);
	CHECK(file_write(t, none, "nonsense", 0600) == 0);
	CHECK(!tls_server(t, none) && t->code == INVALID_VALUE);
	task_forgive(t);
	server = tls_server(t, pem);
	CHECK(server);
}

int main(void)
{
	static void (*const tests[])(struct task *) = {
		test_words, test_halves, test_last_words, test_much, test_garbage,
		test_cut,   test_deaf,   test_no_server,  test_many,    test_forked,
	};
	char dir[] = "/tmp/test_tls.XXXXXX";
	struct task *t = task_new(NULL, "test");
	signal(SIGPIPE, SIG_IGN);
	CHECK(mkdtemp(dir));
	test_certificate(t, dir);
	listen_somewhere();
	for (size_t i = 0; i < COUNT(tests); i++)
		tests[i](t);
	int a, b;
	both(t, &a, &b);
	tls_end(server);
	CHECK(is_over(t, a) && is_over(t, b));
	dir_remove(t, dir);
	talloc_free(t);
	return 0;
}
