// SPDX-License-Identifier: Apache-2.0
#include "base/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "base/thread.h"

enum {
	PIECE = 16384, /* the most that a record holds */
	ROUNDS = 16,   /* pieces of one connection, then the others have their turn */
	EVENTS = 64,
};

/* TLS 1.2 is what the oldest of the usual clients speak. */
static const char priority[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

struct link {
	struct link *next;
	gnutls_session_t session;
	int net, plain;
	uint32_t net_events, plain_events; /* what is waited for; GONE: nothing any more */
	bool greeted;
	bool sending;        /* a record is begun; no more is taken meanwhile */
	bool no_more, ended; /* the plain end has none; and that has been told */
	bool heard_all;      /* the peer has none */
	bool dead;
	char *left; /* of what the peer sent, what the plain end had no room for */
	size_t left_n;
	int64_t until; /* 0: for ever */
};

enum { GONE = 1u << 31 };

struct tls {
	gnutls_certificate_credentials_t credentials;
	int epoll_fd, stop_fd;
	pthread_t thread;
	pthread_mutex_t lock; /* for the list */
	struct link *first;
	bool one; /* ends with its only connection */
	char piece[PIECE];
};

/* ---- a connection's bytes ---- */

static bool may_wait(ssize_t n)
{
	return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
}

static void greet(struct link *l)
{
	int r = gnutls_handshake(l->session);
	l->greeted = r == GNUTLS_E_SUCCESS;
	l->dead = r < 0 && gnutls_error_is_fatal(r);
}

/* What is left to the plain end; true: nothing is. */
static bool hand_over(struct link *l, const char *from, size_t n)
{
	ssize_t put = send(l->plain, from, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (put < 0 && errno != EAGAIN && errno != EINTR)
		l->heard_all = true; /* nobody wants it */
	size_t done = put < 0 ? l->heard_all ? n : 0 : (size_t)put;
	char *left = NULL;
	if (done < n) {
		left = malloc(n - done);
		if (!left)
			abort();
		memcpy(left, from + done, n - done);
	}
	free(l->left);
	l->left = left;
	l->left_n = n - done;
	return !left;
}

/* True: there may be more. */
static bool hear(struct link *l, char *piece)
{
	if (l->left && !hand_over(l, l->left, l->left_n))
		return false;
	if (l->heard_all)
		return false;
	ssize_t n = gnutls_record_recv(l->session, piece, PIECE);
	if (n > 0)
		return hand_over(l, piece, (size_t)n);
	if (n < 0 && !gnutls_error_is_fatal((int)n))
		return !may_wait(n);
	l->heard_all = true;
	l->dead |= n < 0 && n != GNUTLS_E_PREMATURE_TERMINATION;
	shutdown(l->plain, SHUT_WR);
	return false;
}

static bool sent(struct link *l, ssize_t n)
{
	l->sending = may_wait(n);
	l->dead |= n < 0 && !l->sending;
	return n >= 0;
}

/* The peer is told that this was all. */
static void end(struct link *l)
{
	if (l->ended || may_wait(gnutls_bye(l->session, GNUTLS_SHUT_WR)))
		return;
	shutdown(l->net, SHUT_WR);
	l->ended = true;
}

/* A peer may have asked for small records. */
static bool speak(struct link *l, char *piece)
{
	if (l->sending && !sent(l, gnutls_record_send(l->session, NULL, 0)))
		return false;
	size_t most = gnutls_record_get_max_size(l->session);
	most = most < PIECE ? most : PIECE;
	ssize_t n = l->no_more ? 0 : recv(l->plain, piece, most, MSG_DONTWAIT);
	if (n > 0)
		return sent(l, gnutls_record_send(l->session, piece, (size_t)n));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	l->no_more = true;
	end(l);
	return false;
}

static void carry(struct link *l, char *piece, int rounds)
{
	if (!l->greeted)
		greet(l);
	bool more = l->greeted;
	for (int i = 0; more && i < rounds && !l->dead; i++) {
		bool heard = hear(l, piece);
		more = (!l->dead && speak(l, piece)) || heard;
	}
	l->dead |= l->ended && l->heard_all;
}

/* ---- what it waits for ---- */

static uint32_t wanted_of_net(const struct link *l)
{
	bool writes = l->sending || (l->no_more && !l->ended);
	if (!l->greeted)
		return gnutls_record_get_direction(l->session) ? EPOLLOUT : EPOLLIN;
	return (l->left || l->heard_all ? 0 : EPOLLIN) | (writes ? EPOLLOUT : 0);
}

static uint32_t wanted_of_plain(const struct link *l)
{
	bool reads = l->greeted && !l->sending && !l->no_more;
	return (l->left ? EPOLLOUT : 0) | (reads ? EPOLLIN : 0);
}

static void watch(int epoll_fd, struct link *l, int fd, uint32_t *events, uint32_t wanted)
{
	struct epoll_event e = { .events = wanted, .data.ptr = l };
	if (*events == wanted || *events & GONE)
		return;
	*events = wanted;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e) < 0)
		l->dead = true;
}

/* One whose other side is closed would be told of for ever. */
static void forget(int epoll_fd, int fd, uint32_t *events)
{
	if (!(*events & GONE))
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	*events |= GONE;
}

static bool is_closed(int fd)
{
	struct pollfd p = { .fd = fd };
	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

static bool has_words(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* The plain end has been closed: what it wrote is still sent, and nothing waited for. */
static void abandon(struct link *l)
{
	l->heard_all = true;
	free(l->left);
	l->left = NULL;
	if (!l->until)
		l->until = clock_ms() + delay_ms(DELAY_TLS_LAST);
}

static void step(struct tls *tls, struct link *l)
{
	bool unwanted = is_closed(l->plain), cut = is_closed(l->net);
	if (unwanted)
		abandon(l);
	if (!l->dead)
		carry(l, tls->piece, cut || unwanted ? INT_MAX : ROUNDS);
	if (unwanted)
		forget(tls->epoll_fd, l->plain, &l->plain_events);
	if (cut)
		forget(tls->epoll_fd, l->net, &l->net_events);
	watch(tls->epoll_fd, l, l->net, &l->net_events, wanted_of_net(l));
	watch(tls->epoll_fd, l, l->plain, &l->plain_events, wanted_of_plain(l));
	/* Nobody is there any more, or never has been. */
	l->dead |= cut && (unwanted || l->heard_all);
	l->dead |= unwanted && !l->greeted && !has_words(l->plain);
}

/* ---- the thread ---- */

/* A process that was forked meanwhile has the descriptors until its exec: closing them would not take them off. */
static void link_free(struct tls *tls, struct link *l)
{
	forget(tls->epoll_fd, l->net, &l->net_events);
	forget(tls->epoll_fd, l->plain, &l->plain_events);
	gnutls_deinit(l->session);
	close(l->net);
	close(l->plain);
	free(l->left);
	free(l);
}

/* Those that are over or late; when to look again, -1: not for the time's sake. */
static int sweep(struct tls *tls, int64_t now)
{
	int wait = -1;
	pthread_mutex_lock(&tls->lock);
	for (struct link **at = &tls->first, *l; (l = *at);) {
		if (l->dead || (l->until && l->until <= now)) {
			*at = l->next;
			link_free(tls, l);
			continue;
		}
		wait = l->until ? delay_ms(DELAY_TLS_LOOK) : wait;
		at = &l->next;
	}
	pthread_mutex_unlock(&tls->lock);
	return wait;
}

static void *work(void *arg)
{
	struct tls *tls = arg;
	struct epoll_event events[EVENTS];
	int wait = -1;
	do {
		int n = epoll_wait(tls->epoll_fd, events, EVENTS, wait);
		for (int i = 0; i < n; i++) {
			if (!events[i].data.ptr)
				return NULL;
			step(tls, events[i].data.ptr);
		}
		wait = sweep(tls, clock_ms());
	} while (!tls->one || tls->first);
	return NULL;
}

/* ---- begin and end ---- */

static int failed(struct task *t, const char *what, int r)
{
	return fail(t, INTERNAL_ERROR, str(t, "%s: %s", what, gnutls_strerror(r)));
}

static void tls_free(struct tls *tls)
{
	while (tls->first) {
		struct link *l = tls->first;
		tls->first = l->next;
		link_free(tls, l);
	}
	fd_close(&tls->epoll_fd);
	fd_close(&tls->stop_fd);
	if (tls->credentials)
		gnutls_certificate_free_credentials(tls->credentials);
	pthread_mutex_destroy(&tls->lock);
	free(tls);
}

static struct tls *tls_new(struct task *t)
{
	struct tls *tls = calloc(1, sizeof *tls);
	if (!tls)
		abort();
	pthread_mutex_init(&tls->lock, NULL);
	tls->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	tls->stop_fd = eventfd(0, EFD_CLOEXEC);
	struct epoll_event e = { .events = EPOLLIN };
	if (gnutls_certificate_allocate_credentials(&tls->credentials) == 0 && tls->epoll_fd >= 0 &&
	    tls->stop_fd >= 0 && epoll_ctl(tls->epoll_fd, EPOLL_CTL_ADD, tls->stop_fd, &e) == 0)
		return tls;
	task_fail_errno(t, errno, "TLS");
	tls_free(tls);
	return NULL;
}

static struct link *link_new(struct tls *tls, unsigned side, int fd)
{
	struct link *l = calloc(1, sizeof *l);
	if (!l)
		abort();
	*l = (struct link){ .net = fd, .plain = -1 };
	if (gnutls_init(&l->session, side | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0)
		abort();
	gnutls_priority_set_direct(l->session, priority, NULL);
	gnutls_credentials_set(l->session, GNUTLS_CRD_CERTIFICATE, tls->credentials);
	gnutls_transport_set_int(l->session, fd);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return l;
}

/* Hands the connection to the thread; its plain end.  Of the two, the one that we still hold cannot wake the thread
 * before both are there. */
static int link_begin(struct tls *tls, struct link *l)
{
	int pair[2] = { -1, -1 };
	struct epoll_event e = { .events = 0, .data.ptr = l };
	bool good = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0;
	pthread_mutex_lock(&tls->lock);
	l->plain = pair[0];
	good = good && epoll_ctl(tls->epoll_fd, EPOLL_CTL_ADD, l->plain, &e) == 0;
	e.events = l->net_events = EPOLLIN | EPOLLOUT;
	good = good && epoll_ctl(tls->epoll_fd, EPOLL_CTL_ADD, l->net, &e) == 0;
	if (good) {
		l->next = tls->first;
		tls->first = l;
	}
	pthread_mutex_unlock(&tls->lock);
	if (good)
		return pair[1];
	fd_close(&pair[1]);
	link_free(tls, l);
	return -1;
}

struct tls *tls_server(struct task *t, const char *pem)
{
	struct tls *tls = tls_new(t);
	if (!tls)
		return NULL;
	int r = gnutls_certificate_set_x509_key_file(tls->credentials, pem, pem,
						     GNUTLS_X509_FMT_PEM);
	if (r < 0)
		fail(t, INVALID_VALUE, pem, gnutls_strerror(r));
	else if (thread_begin(t, &tls->thread, work, tls) == 0)
		return tls;
	tls_free(tls);
	return NULL;
}

int tls_accept(struct tls *tls, int fd)
{
	return link_begin(tls, link_new(tls, GNUTLS_SERVER, fd));
}

void tls_end(struct tls *tls)
{
	eventfd_write(tls->stop_fd, 1);
	pthread_join(tls->thread, NULL);
	tls_free(tls);
}

/* ---- the other side ---- */

static bool is_no_tls(int r)
{
	return r == GNUTLS_E_UNEXPECTED_PACKET_LENGTH || r == GNUTLS_E_UNSUPPORTED_VERSION_PACKET ||
	       r == GNUTLS_E_UNEXPECTED_PACKET;
}

static int no_tls(struct task *t, const char *host)
{
	return fail(t, INTERNAL_ERROR,
		    str(t, "%s: what answers there is no TLS; is it a plain port?", host));
}

static int greet_server(struct task *t, struct link *l, const char *host)
{
	int64_t end = clock_ms() + delay_ms(DELAY_TLS_GREETING);
	for (;;) {
		int r = gnutls_handshake(l->session);
		if (r == GNUTLS_E_SUCCESS)
			return 0;
		if (gnutls_error_is_fatal(r))
			return is_no_tls(r) ? no_tls(t, host) : failed(t, host, r);
		short events = gnutls_record_get_direction(l->session) ? POLLOUT : POLLIN;
		int left = (int)(end - clock_ms());
		int ready = task_wait(t, l->net, events, left > 0 ? left : 0);
		if (ready < 0)
			return -1;
		if (ready == 0)
			return no_tls(t, host);
	}
}

static int fingerprint(struct task *t, struct link *l, const char *host, unsigned char *ret)
{
	unsigned n = 0;
	size_t size = TLS_FINGERPRINT;
	const gnutls_datum_t *peers = gnutls_certificate_get_peers(l->session, &n);
	int r = n ? gnutls_fingerprint(GNUTLS_DIG_SHA256, &peers[0], ret, &size)
		  : GNUTLS_E_NO_CERTIFICATE_FOUND;
	return r < 0 ? failed(t, host, r) : 0;
}

/* Of the only connection: nobody waits for it. */
static void *work_and_free(void *arg)
{
	pthread_detach(pthread_self());
	work(arg);
	tls_free(arg);
	return NULL;
}

/* Names only: an address is no server's name. */
static void name_server(struct link *l, const char *host)
{
	unsigned char address[sizeof(struct in6_addr)];
	if (inet_pton(AF_INET, host, address) != 1 && inet_pton(AF_INET6, host, address) != 1)
		gnutls_server_name_set(l->session, GNUTLS_NAME_DNS, host, strlen(host));
}

int tls_connect(struct task *t, int fd, const char *host, unsigned char ret_print[TLS_FINGERPRINT])
{
	struct tls *tls = tls_new(t);
	if (!tls) {
		close(fd);
		return -1;
	}
	struct link *l = link_new(tls, GNUTLS_CLIENT, fd);
	name_server(l, host);
	if (greet_server(t, l, host) < 0 || fingerprint(t, l, host, ret_print) < 0) {
		link_free(tls, l);
		tls_free(tls);
		return -1;
	}
	l->greeted = tls->one = true;
	pthread_t thread;
	int plain = link_begin(tls, l);
	if (plain >= 0 && thread_begin(t, &thread, work_and_free, tls) == 0)
		return plain;
	fd_close(&plain);
	tls_free(tls);
	return -1;
}
