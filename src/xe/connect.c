// SPDX-License-Identifier: Apache-2.0
#include "xe/connect.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "base/tls.h"
#include "xe/known_hosts.h"
#include "xe/options.h"
#include "xe/say.h"

static int local_connect(struct task *t)
{
	const char *state = getenv("STILLFRAME_STATE");
	const char *path = str(t, "%s/xapi.sock", state && *state ? state : "/var/lib/stillframe");
	int fd = unix_connect(t, path);
	if (fd >= 0 || task_check(t) < 0)
		return fd;
	bool may = access(path, R_OK | W_OK) == 0 || errno != EACCES;
	const char *why = talloc_strdup(t, what_failed(t));
	task_forgive(t);
	return fail(t, INTERNAL_ERROR,
		    str(t, "The server is not reached: %s\n%s", why,
			may ? "Is stillframed running?  Its state folder is looked for in "
			      "STILLFRAME_STATE; another host is named with -s."
			    : "The local socket is for root and the daemon's own user: use sudo, "
			      "or -s HOST -u USER."));
}

static int try_connect(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		int err = errno;
		fd_close(&fd);
		errno = err;
	}
	if (fd >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	}
	return fd;
}

static int tcp_connect(struct task *t, const char *host, const char *port)
{
	struct addrinfo *found, hints = { .ai_socktype = SOCK_STREAM };
	int err = getaddrinfo(host, port, &hints, &found), fd = -1;
	if (err)
		return fail(t, INTERNAL_ERROR, str(t, "%s: %s", host, gai_strerror(err)));
	for (struct addrinfo *a = found; a && fd < 0 && task_check(t) == 0; a = a->ai_next)
		fd = try_connect(a);
	err = errno;
	freeaddrinfo(found);
	if (fd < 0)
		return task_fail_errno(t, err, str(t, "%s:%s", host, port));
	return fd;
}

static int encrypt(struct task *t, int fd, const char *host, const char *port)
{
	unsigned char print[TLS_FINGERPRINT];
	int plain = tls_connect(t, fd, host, print);
	if (plain >= 0 && known_host(t, host, port, print, sizeof print) < 0)
		fd_close(&plain);
	return plain;
}

int server_connect_to(struct task *t, bool tls, const char *host, const char *port)
{
	const char *at = port ? port : tls ? "443" : "80";
	int fd = tcp_connect(t, host, at);
	return fd < 0 || !tls ? fd : encrypt(t, fd, host, at);
}

int server_connect(struct task *t, const struct options *o)
{
	return o->server ? server_connect_to(t, !o->nossl, o->server, o->port) : local_connect(t);
}
