// SPDX-License-Identifier: Apache-2.0
/* http.h -- the HTTP/1 front: listening sockets, plain and under TLS, a thread per request, and a
 * table of routes.  A connection stays open where the client wants that, the route allows it, and
 * the request was read to its end.
 *
 *     static const struct route routes[] = {
 *             { "POST", "/jsonrpc", jsonrpc_serve },
 *             { "GET", "/files/...", files_serve },       this and all that begins with /files/
 *             { 0 },
 *     };
 *     if (http_serve(t, routes, "/var/lib/stillframe/xapi.sock", "127.0.0.1:8080") < 0)
 *
 * An exact path goes before a prefix, and a longer prefix before a shorter one.
 *
 * Nothing behind the head is taken from the socket but what the route wants: the head is looked at
 * with MSG_PEEK and then read to its last byte, and after it a body that the route takes whole
 * (struct route).  So `fd` is the plain stream of what follows -- a body, or another protocol --
 * and can be handed to whoever copies it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/list.h"

struct connection;
struct task;

struct request {
	const char *method;  /* as sent: "GET" */
	const char *path;    /* percent-decoded, begins with '/', without . and .. segments */
	struct map query;    /* percent-decoded, + is a blank */
	struct map headers;  /* names in lower case */
	int minor;           /* of HTTP/1.x */
	int64_t body_length; /* Content-Length; -1: none announced */
	bool chunked;        /* the body is in chunks, which http_body() refuses */
	bool keep;           /* the client wants the connection to stay */
	bool read;           /* the body was, to its end */
	bool stays; /* returned by http_answer(): it does; a route that answers by itself ends it */

	char *body; /* that has come already, of a route that takes it whole; NULL: none */
	size_t gathered;

	struct connection *of;
	int fd;           /* the connection, behind the head */
	bool trusted;     /* on the local socket, from root or our own user */
	const char *peer; /* for logs: "local uid=0 pid=77" or "192.0.2.1:4711" */
};

/* Where the head in these n bytes ends (behind its empty line): 0 when it has not come yet, -1
 * when no head can begin so (a bare CR or LF, a control character). */
long http_head_end(const char *bytes, size_t n);

/* The n bytes of a whole head into the members up to keep, on ctx.  0, or the status to refuse it
 * with: 400, 431, 501 or 505. */
int http_parse_head(const void *ctx, const char *head, size_t n, struct request *ret);

struct route {
	const char *method, *path;
	/* Answers the request.  A task of its own. */
	void (*serve)(struct task *, struct request *);
	bool keeps; /* the connection may stay behind it */
	size_t body; /* one of so many bytes at most is waited for without a thread; 0: the route reads it */
};

struct http_doors {
	const struct route *routes; /* not copied */
	/* A request is about to be refused, as no route is for it; NULL: nobody is to know. */
	void (*refused)(struct task *, struct request *);
	const char *unix_path; /* a socket of mode 0600 */
	const char *tcp, *tls; /* ADDR:PORT or [ADDR]:PORT; NULL: none */
	const char *pem;       /* for tls: key and certificates */
};

/* Listens on these, and serves until http_stop().  SIGPIPE is ignored from here on. */
int http_serve(struct task *, const struct http_doors *);
/* Takes no more connections, cancels and disconnects those there are, and returns when all their
 * threads have ended. */
void http_stop(void);
enum http_door { HTTP_UNIX, HTTP_TCP, HTTP_TLS, HTTP_DOORS };
/* The port of the TCP or TLS socket, for port 0; -1 without one. */
int http_port(enum http_door);

/* The body, NUL behind it, on t.  Answers 411, 413 or 400 and returns NULL when it has no length,
 * more than limit bytes, or does not come. */
char *http_body(struct task *, struct request *, size_t limit, size_t *ret_n);

#define HTTP_GO_ON "HTTP/1.1 100 Continue\r\n\r\n"
/* Tells a client that waits for leave to send its body (Expect: 100-continue) to go on. */
int http_continue(struct task *, struct request *);

/* Answers 200 before the body is read, as XenServer does for what is put to it, and its clients wait for; what has
 * become of it is said behind that, and the connection ends. */
int http_begin(struct task *, struct request *);

/* A whole answer.  extra is further header lines, each with its CRLF, or "". */
void http_answer(struct task *, struct request *, int status, const char *type, const char *extra,
		 const void *body, size_t n);
/* The same with a short text. */
void http_refuse(struct task *, struct request *, int status, const char *text);
/* The status a recorded error is best told with: 404 for an object that is not there, 401, 500 ... */
int http_status_of(const struct task *);
