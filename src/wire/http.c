// SPDX-License-Identifier: Apache-2.0
/* http.c -- sockets, threads and routes.
 *
 * One thread accepts on all sockets; each connection has a thread and a task.  Connections are
 * limited per socket, so that no crowd on the network locks out who sits at the machine. */
#include "wire/http.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum {
	LOCAL_LIMIT = 100,
	TCP_LIMIT = 400,
	LINGER_MS = 1000,
};

struct listener {
	int fd;
	bool local;
	int count, limit; /* connections */
};

struct connection {
	struct connection *next;
	struct listener *from;
	struct task *task;
	int fd;
};

static struct {
	pthread_mutex_t lock; /* for the connections and the counts */
	pthread_cond_t ended;
	struct connection *first;

	const struct route *routes;
	struct listener listeners[2];
	size_t n;
	char *unix_path;
	int stop_fd; /* eventfd: the accepting thread is to end */
	pthread_t accepter;
} server = { .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER };

/* ---- routes ---- */

/* How well the pattern fits: its length, more when it is exact; 0 not at all. */
static size_t fit(const char *pattern, const char *path)
{
	size_t n = strlen(pattern);
	if (!ends_with(pattern, "..."))
		return streq(pattern, path) ? n + HTTP_HEAD_LIMIT : 0;
	return strncmp(pattern, path, n - 3) == 0 ? n : 0;
}

static void route(struct task *t, struct request *req)
{
	const struct route *found = NULL;
	size_t best = 1;
	const char *allow = "";
	for (const struct route *r = server.routes; r->path; r++) {
		size_t now = fit(r->path, req->path);
		if (now < best)
			continue;
		if (now > best) {
			found = NULL;
			allow = "";
		}
		best = now;
		if (streq(r->method, req->method))
			found = r;
		allow = str(t, "%s%s%s", allow, *allow ? ", " : "", r->method);
	}
	if (found)
		found->serve(t, req);
	else if (!*allow)
		http_refuse(t, req, 404, "There is nothing at this path.");
	else
		http_answer(t, req, 405, "text/plain", str(t, "Allow: %s\r\n", allow),
			    "The path knows other methods.\n", 30);
}

/* ---- the head ---- */

/* Takes as much of what has come as belongs to the head, and not a byte more.
 * 1: the head is whole; 0: go on; else the status to refuse with, -1: the peer is gone. */
static int take_head(int fd, char *head, size_t *n)
{
	ssize_t seen = recv(fd, head + *n, HTTP_HEAD_LIMIT - *n, MSG_PEEK | MSG_DONTWAIT);
	if (seen < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (seen <= 0)
		return -1;
	long end = http_head_end(head, *n + (size_t)seen);
	if (end < 0)
		return 400;
	size_t take = end ? (size_t)end - *n : (size_t)seen;
	if (recv(fd, head + *n, take, MSG_DONTWAIT) != (ssize_t)take)
		return -1;
	*n += take;
	if (end)
		return 1;
	return *n == HTTP_HEAD_LIMIT ? 431 : 0;
}

/* As take_head(), until it is whole or its time is over. */
static int read_head(struct task *t, int fd, char *head, size_t *n)
{
	int64_t start = clock_ms();
	for (;;) {
		int64_t end = start + (*n ? HTTP_HEAD_MS : HTTP_FIRST_MS), left = end - clock_ms();
		int ready = task_wait(t, fd, POLLIN, left > 0 ? (int)left : 0);
		if (ready < 0)
			return -1;
		if (ready == 0)
			return 408;
		int status = take_head(fd, head, n);
		if (status)
			return status;
	}
}

static void serve(struct task *t, struct request *who)
{
	char *head = talloc_array(t, char, HTTP_HEAD_LIMIT);
	size_t n = 0;
	int status = read_head(t, who->fd, head, &n);
	if (status < 0)
		return;
	struct request req = *who;
	if (status == 1) {
		status = http_parse_head(t, head, n, &req);
		req.fd = who->fd;
		req.trusted = who->trusted;
		req.peer = who->peer;
	}
	talloc_free(head);
	if (status)
		http_refuse(t, &req, status, "The request cannot be understood.");
	else
		route(t, &req);
}

/* ---- a connection ---- */

static void know_local(struct task *t, struct request *who)
{
	struct ucred cred;
	socklen_t n = sizeof cred;
	if (getsockopt(who->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return;
	who->trusted = cred.uid == 0 || cred.uid == geteuid();
	who->peer = str(t, "local uid=%u pid=%d", cred.uid, cred.pid);
}

/* A peer that has vanished without a word is noticed after about two minutes. */
static void know_tcp(struct task *t, struct request *who)
{
	static const struct {
		int level, option, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },    { IPPROTO_TCP, TCP_KEEPIDLE, 60 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 10 }, { IPPROTO_TCP, TCP_KEEPCNT, 6 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },    { IPPROTO_TCP, TCP_USER_TIMEOUT, 120000 },
	};
	for (size_t i = 0; i < COUNT(options); i++)
		setsockopt(who->fd, options[i].level, options[i].option, &options[i].value,
			   sizeof options[i].value);
	struct sockaddr_storage sa;
	socklen_t n = sizeof sa;
	char host[64], port[8];
	if (getpeername(who->fd, (struct sockaddr *)&sa, &n) == 0 &&
	    getnameinfo((struct sockaddr *)&sa, n, host, sizeof host, port, sizeof port,
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		who->peer = str(t, "%s:%s", host, port);
}

/* Closing over bytes that were not read would make the peer's system throw away our answer. */
static void linger(int fd)
{
	char waste[4096];
	int64_t end = clock_ms() + LINGER_MS;
	shutdown(fd, SHUT_WR);
	for (int64_t left = LINGER_MS; left > 0; left = end - clock_ms()) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, (int)left) <= 0 || recv(fd, waste, sizeof waste, MSG_DONTWAIT) <= 0)
			return;
	}
}

static void delist(struct connection *c)
{
	pthread_mutex_lock(&server.lock);
	struct connection **at = &server.first;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	pthread_mutex_unlock(&server.lock);
}

static void leave(struct listener *from)
{
	pthread_mutex_lock(&server.lock);
	from->count--;
	pthread_cond_broadcast(&server.ended);
	pthread_mutex_unlock(&server.lock);
}

static void *connection(void *arg)
{
	struct connection *c = arg;
	struct listener *from = c->from;
	struct request who = { .fd = c->fd, .peer = "unknown" };
	(from->local ? know_local : know_tcp)(c->task, &who);
	serve(c->task, &who);
	linger(c->fd);

	delist(c);
	close(c->fd);
	talloc_free(c->task);
	leave(from);
	return NULL;
}

/* Counts the connection in; false when there are enough of them. */
static bool enlist(struct connection *c)
{
	pthread_mutex_lock(&server.lock);
	bool room = c->from->count < c->from->limit;
	if (room) {
		c->from->count++;
		c->next = server.first;
		server.first = c;
	}
	pthread_mutex_unlock(&server.lock);
	return room;
}

/* The thread ends by itself: http_stop() waits for the count. */
static int start(struct connection *c)
{
	pthread_attr_t detached;
	pthread_t thread;
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int err = pthread_create(&thread, &detached, connection, c);
	pthread_attr_destroy(&detached);
	return err;
}

static void take(struct listener *from, int fd)
{
	struct task *t = task_new(NULL, "http");
	struct connection *c = talloc_zero(t, struct connection);
	*c = (struct connection){ .from = from, .task = t, .fd = fd };
	bool room = enlist(c);
	if (room && start(c) == 0)
		return;
	if (room) {
		delist(c);
		leave(from);
	}
	close(fd);
	talloc_free(t);
}

static void accept_one(struct listener *from)
{
	int fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0) {
		take(from, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		/* It stays in the queue, and the socket readable: give others time to close. */
		log_line(NULL, "connection not taken error=\"%s\"", strerror(errno));
		poll(NULL, 0, 200);
	}
}

static void *accept_all(void *arg)
{
	(void)arg;
	for (;;) {
		struct pollfd p[3] = { { .fd = server.stop_fd, .events = POLLIN } };
		for (size_t i = 0; i < server.n; i++)
			p[i + 1] = (struct pollfd){ server.listeners[i].fd, POLLIN, 0 };
		if (poll(p, server.n + 1, -1) < 0)
			continue;
		if (p[0].revents)
			return NULL;
		for (size_t i = 0; i < server.n; i++)
			if (p[i + 1].revents)
				accept_one(&server.listeners[i]);
	}
}

/* ---- start and stop ---- */

static int listen_at(struct task *t, const struct addrinfo *a)
{
	int one = 1;
	FD_SCOPE int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 128) < 0)
		return task_fail_errno(t, errno, "listen");
	int ret = fd;
	fd = -1;
	return ret;
}

/* ADDR:PORT or [ADDR]:PORT to a listening socket. */
static int tcp_listen(struct task *t, const char *where)
{
	char *host = talloc_strdup(t, where), *port = strrchr(host, ':');
	if (!port || port == host)
		return fail(t, INTERNAL_ERROR, str(t, "%s is not of the form ADDR:PORT", where));
	*port++ = 0;
	if (*host == '[' && port[-2] == ']') {
		port[-2] = 0;
		host++;
	}
	struct addrinfo *found,
		hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	int err = getaddrinfo(host, port, &hints, &found);
	if (err)
		return fail(t, INTERNAL_ERROR, str(t, "%s: %s", where, gai_strerror(err)));
	int fd = listen_at(t, found);
	freeaddrinfo(found);
	return fd;
}

static int add_listener(int fd, bool local)
{
	if (fd < 0)
		return -1;
	fcntl(fd, F_SETFL, O_NONBLOCK); /* a peer may be gone again when we come to accept it */
	server.listeners[server.n++] = (struct listener){
		.fd = fd, .local = local, .limit = local ? LOCAL_LIMIT : TCP_LIMIT
	};
	return 0;
}

static void close_listeners(void)
{
	for (size_t i = 0; i < server.n; i++)
		close(server.listeners[i].fd);
	server.n = 0;
	fd_close(&server.stop_fd);
	free(server.unix_path);
	server.unix_path = NULL;
}

/* Signals are for the main thread: ours, and the threads they make, have them blocked. */
static int start_accepting(struct task *t)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	int err = pthread_create(&server.accepter, NULL, accept_all, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err ? task_fail_errno(t, err, "pthread_create") : 0;
}

int http_serve(struct task *t, const struct route *routes, const char *unix_path, const char *tcp)
{
	assert(server.n == 0);
	signal(SIGPIPE, SIG_IGN);
	server.routes = routes;
	server.stop_fd = eventfd(0, EFD_CLOEXEC);
	server.unix_path = strdup(unix_path);
	if (server.stop_fd < 0 || add_listener(unix_listen(t, unix_path, 0600), true) < 0 ||
	    (tcp && add_listener(tcp_listen(t, tcp), false) < 0) || start_accepting(t) < 0) {
		close_listeners();
		return t->code == NO_ERROR ? task_fail_errno(t, errno, "eventfd") : -1;
	}
	return 0;
}

int http_port(void)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof sa;
	if (server.n < 2 || getsockname(server.listeners[1].fd, (struct sockaddr *)&sa, &n) < 0)
		return -1;
	return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
					      : ((struct sockaddr_in *)&sa)->sin_port);
}

static int connections(void)
{
	int n = 0;
	for (size_t i = 0; i < server.n; i++)
		n += server.listeners[i].count;
	return n;
}

void http_stop(void)
{
	if (server.n == 0)
		return;
	eventfd_write(server.stop_fd, 1);
	pthread_join(server.accepter, NULL);
	pthread_mutex_lock(&server.lock);
	for (struct connection *c = server.first; c; c = c->next) {
		task_interrupt(c->task);
		shutdown(c->fd, SHUT_RDWR);
	}
	while (connections())
		pthread_cond_wait(&server.ended, &server.lock);
	pthread_mutex_unlock(&server.lock);
	unlink(server.unix_path);
	close_listeners();
}
