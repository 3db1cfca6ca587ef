// SPDX-License-Identifier: Apache-2.0
/* http.c -- sockets, threads and routes.
 *
 *     accept --> parked --> served --> closed
 *                  ^          |
 *                  '-- keep --'
 *
 * One thread accepts on all sockets, and waits for the next request on all connections that are parked: so one that
 * is idle costs a descriptor and some hundred bytes.  A request has a thread and a task.  Both, connections and
 * requests, are limited per socket, so that no crowd on the network locks out who sits at the machine, and per
 * address, so that no single peer locks out the others; a request for which there is no thread waits for one. */
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
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/tls.h"
#include "wire/site.h"

enum {
	LOCAL_LIMIT = 200, /* connections ... */
	TCP_LIMIT = 3000,
	PEER_LIMIT = 2400,
	LOCAL_THREADS = 100, /* ... and requests at a time */
	TCP_THREADS = 400,
	PEER_THREADS = 300,
	EVENTS = 64,
};

struct listener {
	int fd;
	enum http_door door;
	int count, limit, peer_limit; /* connections */
	int busy, threads, peer_threads;
};

enum state {
	PARKED, /* the accepting thread waits for a byte of it */
	READY,  /* a request has come, and there is no thread for it yet */
	SERVED,
};

struct connection {
	struct connection *next;
	struct listener *from;
	enum state state;
	int64_t until; /* PARKED: it is closed then */
	int fd;
	bool trusted;
	const char *peer;  /* address and port */
	const char *place; /* the address, of IPv6 its network; "" at the local socket */
	struct task *task; /* of the request; NULL: none */
};

static struct {
	pthread_mutex_t lock; /* for the connections and the counts */
	pthread_cond_t ended;
	struct connection *first;
	bool stopping;

	const struct route *routes;
	void (*refused)(struct task *, struct request *);
	struct listener listeners[HTTP_DOORS];
	size_t n;
	struct tls *tls; /* NULL: none */
	char *unix_path;
	int stop_fd; /* eventfd: the accepting thread is to end */
	int epoll_fd;
	pthread_t accepter;
} server = { .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER, .epoll_fd = -1 };

/* ---- routes ---- */

/* A slash behind it is the same path: clients put one there. */
static bool is_path(const char *pattern, size_t n, const char *path)
{
	return strncmp(pattern, path, n) == 0 && (!path[n] || streq(path + n, "/"));
}

/* How well the pattern fits: its length, more when it is exact; 0 not at all. */
static size_t fit(const char *pattern, const char *path)
{
	size_t n = strlen(pattern);
	if (!ends_with(pattern, "..."))
		return is_path(pattern, n, path) ? n + HTTP_HEAD_LIMIT : 0;
	return strncmp(pattern, path, n - 3) == 0 ? n : 0;
}

/* Every path is one of XML-RPC's, to post to; what is fetched from elsewhere than "/" is not there. */
static bool is_for_any(const char *path, size_t fit)
{
	return fit == strlen("/...") && !streq(path, "/");
}

/* allow: the methods that there are, "": none. */
static void refuse_path(struct task *t, struct request *req, const char *allow)
{
	static const char text[] = "This path is served, but not with that method.\n";
	if (server.refused)
		server.refused(t, req);
	if (!*allow)
		http_refuse(t, req, 404, "There is nothing at this path.");
	else
		http_answer(t, req, 405, "text/plain", str(t, "Allow: %s\r\n", allow), text,
			    strlen(text));
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
	req->keep &= found && found->keeps;
	if (found)
		found->serve(t, req);
	else
		refuse_path(t, req, is_for_any(req->path, best) ? "" : allow);
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
		int64_t end = start + delay_ms(*n ? DELAY_HTTP_HEAD : DELAY_HTTP_FIRST);
		int64_t left = end - clock_ms();
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

static const char unclear[] = "The request cannot be understood.";
static const char misnamed[] =
	"The page calls this server by a name that it does not have. Use its address, or "
	"give it a certificate with that name (tls-pem).";

/* Whether the connection stays. */
static bool serve(struct task *t, const struct connection *c)
{
	char *head = talloc_array(t, char, HTTP_HEAD_LIMIT);
	struct request req = { 0 };
	size_t n = 0;
	int status = read_head(t, c->fd, head, &n);
	if (status < 0)
		return false;
	if (status == 1)
		status = http_parse_head(t, head, n, &req);
	req.fd = c->fd;
	req.trusted = t->trusted = c->trusted;
	req.peer = c->peer;
	talloc_free(head);
	if (!status && site_is_misnamed(&req))
		status = 421;
	req.keep &= !status;
	if (status)
		http_refuse(t, &req, status, status == 421 ? misnamed : unclear);
	else
		route(t, &req);
	return req.stays;
}

/* ---- a connection ---- */

static void know_local(struct connection *c)
{
	struct ucred cred;
	socklen_t n = sizeof cred;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return;
	c->trusted = cred.uid == 0 || cred.uid == geteuid();
	c->peer = str(c, "local uid=%u pid=%d", cred.uid, cred.pid);
}

static const char *place_of(const void *ctx, struct sockaddr_storage *sa, socklen_t n)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)sa;
	char text[64];
	if (sa->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		memset(six->sin6_addr.s6_addr + 8, 0, 8);
	int err = getnameinfo((struct sockaddr *)sa, n, text, sizeof text, NULL, 0, NI_NUMERICHOST);
	return talloc_strdup(ctx, err ? "" : text);
}

/* A peer that has vanished without a word is noticed after about two minutes. */
static void know_tcp(struct connection *c)
{
	static const struct {
		int level, option, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },    { IPPROTO_TCP, TCP_KEEPIDLE, 60 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 10 }, { IPPROTO_TCP, TCP_KEEPCNT, 6 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },    { IPPROTO_TCP, TCP_USER_TIMEOUT, 120000 },
	};
	for (size_t i = 0; i < COUNT(options); i++)
		setsockopt(c->fd, options[i].level, options[i].option, &options[i].value,
			   sizeof options[i].value);
	struct sockaddr_storage sa = { 0 };
	socklen_t n = sizeof sa;
	char host[64], port[8];
	if (getpeername(c->fd, (struct sockaddr *)&sa, &n) == 0 &&
	    getnameinfo((struct sockaddr *)&sa, n, host, sizeof host, port, sizeof port,
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		c->peer = str(c, "%s:%s", host, port);
	c->place = place_of(c, &sa, n);
}

/* Closing over bytes that were not read would make the peer's system throw away our answer. */
static void linger(int fd)
{
	char waste[4096];
	int64_t end = clock_ms() + delay_ms(DELAY_HTTP_LINGER);
	shutdown(fd, SHUT_WR);
	for (int64_t left = delay_ms(DELAY_HTTP_LINGER); left > 0; left = end - clock_ms()) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, (int)left) <= 0 || recv(fd, waste, sizeof waste, MSG_DONTWAIT) <= 0)
			return;
	}
}

/* How many connections its peer has at the same socket; served: in which a request is at work.  Lock held. */
static int of_peer(const struct connection *c, bool served)
{
	int n = 0;
	for (const struct connection *o = server.first; o; o = o->next)
		n += o->from == c->from && streq(o->place, c->place) &&
		     (!served || o->state == SERVED);
	return n;
}

/* Lock held. */
static bool has_its_share(const struct connection *c)
{
	return of_peer(c, true) >= c->from->peer_threads;
}

/* Lock held. */
static void take_off(struct connection *c)
{
	struct connection **at = &server.first;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->from->count--;
	pthread_cond_broadcast(&server.ended);
}

static void end(struct connection *c)
{
	pthread_mutex_lock(&server.lock);
	take_off(c);
	pthread_mutex_unlock(&server.lock);
	/* A process that was forked meanwhile has it until its exec: closing it would not take it off. */
	epoll_ctl(server.epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	talloc_free(c);
}

/* It is whoever's its next byte wakes from then on.  False: the server stops. */
static bool park(struct connection *c, int op, int ms)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = c };
	pthread_mutex_lock(&server.lock);
	bool stops = server.stopping;
	c->state = stops ? SERVED : PARKED;
	c->until = clock_ms() + ms;
	bool parked = !stops && epoll_ctl(server.epoll_fd, op, c->fd, &e) == 0;
	if (!parked)
		c->state = SERVED;
	pthread_mutex_unlock(&server.lock);
	return parked;
}

static void set_task(struct connection *c, struct task *t)
{
	pthread_mutex_lock(&server.lock);
	c->task = t;
	if (t && server.stopping)
		task_interrupt(t);
	pthread_mutex_unlock(&server.lock);
}

static void serve_one(struct connection *c)
{
	struct task *t = task_new(NULL, "http");
	t->peer = c->peer;
	set_task(c, t);
	bool stays = serve(t, c);
	set_task(c, NULL);
	talloc_free(t);
	if (stays && park(c, EPOLL_CTL_MOD, delay_ms(DELAY_HTTP_IDLE)))
		return;
	linger(c->fd);
	end(c);
}

/* The next one that waits for a thread; NULL: this one ends. */
static struct connection *next_ready(struct listener *from)
{
	pthread_mutex_lock(&server.lock);
	struct connection *c = server.first;
	while (c && (c->from != from || c->state != READY || has_its_share(c)))
		c = c->next;
	if (c)
		c->state = SERVED;
	else
		from->busy--;
	pthread_cond_broadcast(&server.ended);
	pthread_mutex_unlock(&server.lock);
	return c;
}

static void *serve_all(void *arg)
{
	struct connection *c = arg;
	struct listener *from = c->from;
	for (; c; c = next_ready(from))
		serve_one(c);
	return NULL;
}

/* The thread ends by itself: http_stop() waits for the count. */
static int start(struct connection *c)
{
	pthread_attr_t detached;
	pthread_t thread;
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int err = pthread_create(&thread, &detached, serve_all, c);
	pthread_attr_destroy(&detached);
	return err;
}

static bool has_ended(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/* A request comes on one that was parked, or its end. */
static void wake(struct connection *c)
{
	if (has_ended(c->fd)) {
		end(c);
		return;
	}
	pthread_mutex_lock(&server.lock);
	bool room = c->from->busy < c->from->threads && !has_its_share(c);
	c->from->busy += room;
	c->state = room ? SERVED : READY;
	pthread_mutex_unlock(&server.lock);
	if (!room || start(c) == 0)
		return;
	pthread_mutex_lock(&server.lock);
	c->from->busy--;
	pthread_mutex_unlock(&server.lock);
	end(c);
}

/* Counts the connection in; false when there are enough of them. */
static bool enlist(struct connection *c)
{
	pthread_mutex_lock(&server.lock);
	bool room = c->from->count < c->from->limit && of_peer(c, false) < c->from->peer_limit;
	if (room) {
		c->from->count++;
		c->next = server.first;
		server.first = c;
	}
	pthread_mutex_unlock(&server.lock);
	return room;
}

/* What is encrypted comes to us through the other end of a pair. */
static int unwrap(struct listener *from, int fd)
{
	return from->door == HTTP_TLS ? tls_accept(server.tls, fd) : fd;
}

static void take(struct listener *from, int fd)
{
	struct connection *c = talloc_zero(NULL, struct connection);
	*c = (struct connection){
		.from = from, .fd = fd, .state = SERVED, .peer = "unknown", .place = ""
	};
	(from->door == HTTP_UNIX ? know_local : know_tcp)(c);
	if (!enlist(c)) {
		close(fd);
		talloc_free(c);
		return;
	}
	c->fd = unwrap(from, fd);
	if (!park(c, EPOLL_CTL_ADD, delay_ms(DELAY_HTTP_FIRST)))
		end(c);
}

/* One that is over its time is taken off; NULL: there is none. */
static struct connection *take_idle(int64_t now)
{
	pthread_mutex_lock(&server.lock);
	struct connection *c = server.first;
	while (c && (c->state != PARKED || c->until > now))
		c = c->next;
	if (c)
		c->state = SERVED;
	pthread_mutex_unlock(&server.lock);
	return c;
}

static void close_idle(void)
{
	struct connection *c;
	while ((c = take_idle(clock_ms())) != NULL)
		end(c);
}

static void accept_one(struct listener *from)
{
	int fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0) {
		take(from, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		/* It stays in the queue, and the socket readable: give others time to close. */
		log_line(NULL, "connection not taken error=\"%s\"", strerror(errno));
		delay_sleep(DELAY_HTTP_NO_ROOM);
	}
}

static bool is_listener(const void *p)
{
	return p >= (const void *)server.listeners &&
	       p < (const void *)(server.listeners + server.n);
}

/* False: the server stops. */
static bool heed(const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		void *p = events[i].data.ptr;
		if (!p)
			return false;
		if (is_listener(p))
			accept_one(p);
		else
			wake(p);
	}
	return true;
}

static void *accept_all(void *arg)
{
	struct epoll_event events[EVENTS];
	int64_t looked = clock_ms();
	(void)arg;
	for (;;) {
		if (!heed(events,
			  epoll_wait(server.epoll_fd, events, EVENTS, delay_ms(DELAY_HTTP_LOOK))))
			return NULL;
		if (clock_ms() - looked < delay_ms(DELAY_HTTP_LOOK))
			continue;
		looked = clock_ms();
		close_idle();
	}
}

/* ---- start and stop ---- */

static int listen_at(struct task *t, const char *where, const struct addrinfo *a)
{
	int one = 1;
	FD_SCOPE int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0)
		return task_fail_errno(t, errno, str(t, "cannot listen at %s", where));
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
	int fd = listen_at(t, where, found);
	freeaddrinfo(found);
	return fd;
}

static int watch(int fd, void *who)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = who };
	return epoll_ctl(server.epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

static int add_listener(int fd, enum http_door door)
{
	bool local = door == HTTP_UNIX;
	if (fd < 0)
		return -1;
	fcntl(fd, F_SETFL, O_NONBLOCK); /* a peer may be gone again when we come to accept it */
	struct listener *l = &server.listeners[server.n++];
	*l = (struct listener){
		.fd = fd,
		.door = door,
		.limit = local ? LOCAL_LIMIT : TCP_LIMIT,
		.peer_limit = local ? LOCAL_LIMIT : PEER_LIMIT,
		.threads = local ? LOCAL_THREADS : TCP_THREADS,
		.peer_threads = local ? LOCAL_THREADS : PEER_THREADS,
	};
	return watch(fd, l);
}

static int add_tls(struct task *t, const struct http_doors *d)
{
	server.tls = tls_server(t, d->pem);
	return server.tls ? add_listener(tcp_listen(t, d->tls), HTTP_TLS) : -1;
}

/* Who finds the local one open finds them all open. */
static int add_listeners(struct task *t, const struct http_doors *d)
{
	if (d->tcp && add_listener(tcp_listen(t, d->tcp), HTTP_TCP) < 0)
		return -1;
	if (d->tls && add_tls(t, d) < 0)
		return -1;
	return add_listener(unix_listen(t, d->unix_path, 0600), HTTP_UNIX);
}

static void close_listeners(void)
{
	for (size_t i = 0; i < server.n; i++)
		close(server.listeners[i].fd);
	server.n = 0;
	if (server.tls)
		tls_end(server.tls);
	server.tls = NULL;
	site_close();
	fd_close(&server.stop_fd);
	fd_close(&server.epoll_fd);
	free(server.unix_path);
	server.unix_path = NULL;
}

int http_serve(struct task *t, const struct http_doors *d)
{
	assert(server.n == 0);
	signal(SIGPIPE, SIG_IGN);
	server.routes = d->routes;
	server.refused = d->refused;
	server.stopping = false;
	server.stop_fd = eventfd(0, EFD_CLOEXEC);
	server.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	server.unix_path = strdup(d->unix_path);
	if (server.stop_fd < 0 || watch(server.stop_fd, NULL) < 0 ||
	    site_open(t, d->tls ? d->pem : NULL) < 0 || add_listeners(t, d) < 0 ||
	    thread_begin(t, &server.accepter, accept_all, NULL) < 0) {
		close_listeners();
		return t->code == NO_ERROR ? task_fail_errno(t, errno, "eventfd") : -1;
	}
	return 0;
}

static int socket_of(enum http_door door)
{
	for (size_t i = 0; i < server.n; i++)
		if (server.listeners[i].door == door)
			return server.listeners[i].fd;
	return -1;
}

int http_port(enum http_door door)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof sa;
	if (getsockname(socket_of(door), (struct sockaddr *)&sa, &n) < 0)
		return -1;
	return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
					      : ((struct sockaddr_in *)&sa)->sin_port);
}

static bool is_busy(void)
{
	bool busy = false;
	for (size_t i = 0; i < server.n; i++)
		busy |= server.listeners[i].count || server.listeners[i].busy;
	return busy;
}

/* Lock held. */
static struct connection *first_unserved(void)
{
	struct connection *c = server.first;
	while (c && c->state == SERVED)
		c = c->next;
	return c;
}

void http_stop(void)
{
	struct connection *c;
	if (server.n == 0)
		return;
	eventfd_write(server.stop_fd, 1);
	pthread_join(server.accepter, NULL);
	pthread_mutex_lock(&server.lock);
	server.stopping = true;
	while ((c = first_unserved()) != NULL) {
		take_off(c);
		close(c->fd);
		talloc_free(c);
	}
	for (c = server.first; c; c = c->next) {
		if (c->task)
			task_interrupt(c->task);
		shutdown(c->fd, SHUT_RDWR);
	}
	while (is_busy())
		pthread_cond_wait(&server.ended, &server.lock);
	pthread_mutex_unlock(&server.lock);
	unlink(server.unix_path);
	close_listeners();
}
