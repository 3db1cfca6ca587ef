// SPDX-License-Identifier: Apache-2.0
/* http.c -- sockets, threads and routes.
 *
 *     accept --> parked --> ready --> served --> closed
 *                  ^                    |
 *                  '------- keep -------'
 *
 * One thread accepts on all sockets, and takes in what comes on all connections that are parked
 * (wire/intake.h): so one that is idle, or slow, costs a descriptor and what it has sent.  A
 * request that is there has a thread and a task, when it is its source's turn (wire/crowd.h): so
 * that no crowd on the network locks out who sits at the machine, and no single peer the others. */
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
#include "base/peer.h"
#include "base/task.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/tls.h"
#include "db/db.h"
#include "wire/crowd.h"
#include "wire/intake.h"
#include "wire/site.h"

enum { EVENTS = 64 };

struct listener {
	int fd;
	enum http_door door;
};

enum { LOCAL, NETWORK, CROWDS };

static struct {
	const struct route *routes;
	void (*refused)(struct task *, struct request *);
	struct listener listeners[HTTP_DOORS];
	size_t n;
	struct crowd crowds[CROWDS];
	struct tls *tls; /* NULL: none */
	char *unix_path;
	int stop_fd; /* eventfd: the accepting thread is to end */
	int epoll_fd;
	struct connection *gone; /* the accepting thread's: to be freed */
	pthread_t accepter;
} server = { .epoll_fd = -1 };

static const struct shares shares[CROWDS] = {
	[LOCAL] = { .connections = LOCAL_CONNECTIONS_LIMIT,
		    .connections_of_source = LOCAL_CONNECTIONS_LIMIT,
		    .working = LOCAL_REQUESTS_LIMIT,
		    .working_of_source = LOCAL_REQUESTS_LIMIT,
		    .waiting = 1,
		    .waiting_of_source = 1,
		    .bodies = SIZE_MAX,
		    .bodies_of_source = SIZE_MAX,
		    .answers_of_source = SIZE_MAX },
	[NETWORK] = { .connections = CONNECTIONS_LIMIT,
		      .connections_of_source = CONNECTIONS_OF_SOURCE_LIMIT,
		      .working = WORKING_LIMIT,
		      .working_of_source = WORKING_OF_SOURCE_LIMIT,
		      .waiting = WAITING_LIMIT,
		      .waiting_of_source = WAITING_OF_SOURCE_LIMIT,
		      .waiting_share = WAITING_SHARE_LIMIT,
		      .strangers = STRANGERS_LIMIT,
		      .strangers_of_source = STRANGERS_OF_SOURCE_LIMIT,
		      .bodies = BODIES_LIMIT,
		      .bodies_of_source = BODIES_OF_SOURCE_LIMIT,
		      .answers_of_source = ANSWERS_OF_SOURCE_LIMIT,
		      .remote = true },
};

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

/* NULL: there is none.  ret_allow, on ctx: the methods that the path knows, "" none. */
static const struct route *find_route(const void *ctx, const struct request *req,
				      const char **ret_allow)
{
	const struct route *found = NULL;
	size_t best = 1;
	*ret_allow = "";
	for (const struct route *r = server.routes; r->path; r++) {
		size_t now = fit(r->path, req->path);
		if (now < best)
			continue;
		if (now > best) {
			found = NULL;
			*ret_allow = "";
		}
		best = now;
		if (streq(r->method, req->method))
			found = r;
		*ret_allow = str(ctx, "%s%s%s", *ret_allow, **ret_allow ? ", " : "", r->method);
	}
	if (is_for_any(req->path, best))
		*ret_allow = "";
	return found;
}

static size_t body_of_route(const struct connection *c)
{
	const char *allow;
	const struct route *r = find_route(c->scope, &c->req, &allow);
	return r ? r->body : 0;
}

static void route(struct task *t, struct request *req)
{
	const char *allow;
	const struct route *found = find_route(t, req, &allow);
	req->keep &= found && found->keeps;
	if (found)
		found->serve(t, req);
	else
		refuse_path(t, req, allow);
}

/* ---- a request ---- */

static const char unclear[] = "The request cannot be understood.";
static const char misnamed[] =
	"The page calls this server by a name that it does not have. Use its address, or "
	"give it a certificate with that name (tls-pem).";

/* Whether the connection stays. */
static bool serve(struct task *t, const struct connection *c)
{
	struct request req = c->req;
	int status = c->status;
	req.fd = c->fd;
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
}

/* ---- turns ---- */

static void disconnect(struct connection *c)
{
	crowd_leave(c);
	/* A process that was forked meanwhile has it until its exec: closing it would not take it
	 * off. */
	epoll_ctl(server.epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	talloc_free(c->scope);
}

static void end(struct connection *c)
{
	disconnect(c);
	talloc_free(c);
}

/* Its next byte wakes the accepting thread. */
static bool watch_anew(struct connection *c)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = c };
	return epoll_ctl(server.epoll_fd, EPOLL_CTL_MOD, c->fd, &e) == 0 ||
	       (errno == ENOENT && epoll_ctl(server.epoll_fd, EPOLL_CTL_ADD, c->fd, &e) == 0);
}

/* It is no more the caller's. */
static void park(struct connection *c, int ms)
{
	if (!crowd_park(c, ms, watch_anew))
		end(c);
}

static void dispatch(struct crowd *crowd);

static void rest(struct task_turn *turn, int fd)
{
	struct connection *c = (struct connection *)turn;
	struct crowd *crowd = c->source->crowd;
	if (crowd_rest(c, fd == c->fd))
		dispatch(crowd);
}

static void work(struct task_turn *turn)
{
	struct connection *c = (struct connection *)turn;
	if (!crowd_line_up(c))
		return;
	dispatch(c->source->crowd);
	crowd_await(c);
}

static int vouch(struct task_turn *turn, struct task *t, const char *user)
{
	return crowd_vouch((struct connection *)turn, t, user);
}

static bool is_left(struct task_turn *turn)
{
	char byte;
	ssize_t n = recv(((struct connection *)turn)->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/* What has been taken in for it ends with its task. */
static struct task *begin(struct connection *c)
{
	struct task *t = task_new(NULL, "http");
	c->turn = (struct task_turn){ rest, work, vouch, is_left };
	t->peer = c->peer;
	t->trusted = c->trusted;
	t->turn = &c->turn;
	talloc_steal(t, c->scope);
	crowd_begin(c, t);
	return t;
}

static void forget_request(struct connection *c)
{
	c->scope = NULL;
	c->head = NULL;
	c->head_n = 0;
	c->has_head = false;
	c->status = 0;
	c->req = (struct request){ 0 };
}

static void serve_one(struct connection *c)
{
	struct task *t = begin(c);
	bool stays = serve(t, c);
	crowd_done(c);
	talloc_free(t);
	forget_request(c);
	if (!stays) {
		c->lingers = true;
		shutdown(c->fd, SHUT_WR);
	}
	park(c, delay_ms(stays ? DELAY_HTTP_IDLE : DELAY_HTTP_LINGER));
}

static void *serve_all(void *arg)
{
	struct connection *c = arg;
	struct crowd *crowd = c->source->crowd;
	db_give_way(crowd->most.remote);
	for (; c; c = crowd_next(crowd, true))
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

/* A thread for each of those whose turn it is. */
static void dispatch(struct crowd *crowd)
{
	for (struct connection *c; (c = crowd_next(crowd, false)) != NULL;) {
		if (start(c) == 0)
			continue;
		crowd_no_thread(c);
		end(c);
	}
}

/* ---- the accepting thread ---- */

/* What has happened on one that goes for another's sake may just have been told: it is freed behind
 * that. */
static void displace(struct connection *c)
{
	disconnect(c);
	c->fd = -1;
	c->next = server.gone;
	server.gone = c;
}

static void free_gone(void)
{
	for (struct connection *c; (c = server.gone) != NULL;) {
		server.gone = c->next;
		talloc_free(c);
	}
}

static void make_room(struct connection *c, size_t n)
{
	for (struct connection *victim; (victim = crowd_need_room(c, n)) != NULL;)
		displace(victim);
}

static int time_left(const struct connection *c)
{
	int64_t left = c->until - clock_ms();
	return left > 0 ? (int)left : 0;
}

/* Closing over bytes that were not read would make the peer's system throw away our answer: it is
 * waited for, a while, to close. */
static void drain(struct connection *c)
{
	char waste[4096];
	ssize_t n = 1;
	for (int i = 0; i < EVENTS && n > 0; i++)
		n = recv(c->fd, waste, sizeof waste, MSG_DONTWAIT);
	bool more = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
	if (more)
		park(c, time_left(c));
	else
		end(c);
}

/* Something comes on one that was parked, or its end. */
static void wake(struct connection *c)
{
	if (c->lingers) {
		drain(c);
		return;
	}
	struct crowd *crowd = c->source->crowd;
	bool had_head = c->has_head, had_byte = c->head_n;
	switch (intake(c, body_of_route, make_room)) {
	case INTAKE_WHOLE:
		crowd_ready(c);
		dispatch(crowd);
		break;
	case INTAKE_MORE: {
		bool is_further = had_head != c->has_head || !had_byte;
		park(c, is_further ? intake_patience(c) : time_left(c));
		break;
	}
	case INTAKE_GONE:
		end(c);
	}
}

/* What is encrypted comes to us through the other end of a pair. */
static int unwrap(struct listener *from, int fd)
{
	return from->door == HTTP_TLS ? tls_accept(server.tls, fd) : fd;
}

static bool enter(struct listener *from, struct connection *c)
{
	struct connection *victim;
	struct crowd *crowd = &server.crowds[from->door == HTTP_UNIX ? LOCAL : NETWORK];
	bool in = crowd_enter(crowd, c, peer_source(c, c->peer), &victim);
	if (victim)
		displace(victim);
	return in;
}

static void take(struct listener *from, int fd)
{
	struct connection *c = talloc_zero(NULL, struct connection);
	*c = (struct connection){ .fd = fd, .state = SERVED, .peer = "unknown" };
	(from->door == HTTP_UNIX ? know_local : know_tcp)(c);
	if (!enter(from, c)) {
		close(fd);
		talloc_free(c);
		return;
	}
	c->fd = unwrap(from, fd);
	park(c, delay_ms(DELAY_HTTP_FIRST));
}

static void close_idle(void)
{
	struct connection *c;
	while ((c = crowd_late(clock_ms())) != NULL) {
		intake_refuse_late(c);
		end(c);
	}
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
		else if (((struct connection *)p)->fd >= 0 && crowd_is_parked(p))
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
		int n = epoll_wait(server.epoll_fd, events, EVENTS, delay_ms(DELAY_HTTP_LOOK));
		bool goes_on = heed(events, n);
		free_gone();
		if (!goes_on)
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
	if (fd < 0)
		return -1;
	fcntl(fd, F_SETFL, O_NONBLOCK); /* a peer may be gone again when we come to accept it */
	struct listener *l = &server.listeners[server.n++];
	*l = (struct listener){ .fd = fd, .door = door };
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
	for (size_t i = 0; i < CROWDS; i++)
		crowd_init(&server.crowds[i], &shares[i]);
	crowd_open();
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

void http_stop(void)
{
	struct connection *c;
	if (server.n == 0)
		return;
	eventfd_write(server.stop_fd, 1);
	pthread_join(server.accepter, NULL);
	crowd_close();
	while ((c = crowd_unserved()) != NULL)
		end(c);
	crowd_wait_empty(server.crowds, CROWDS);
	unlink(server.unix_path);
	close_listeners();
}
