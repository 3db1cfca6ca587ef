// SPDX-License-Identifier: Apache-2.0
/* tls.h -- TLS beside a plain socket: one thread carries bytes between all encrypted connections and one end of a
 * pair each.  Whoever has the other end reads and writes what is meant, and can wait for it, look ahead or hand it
 * on as any socket.
 *
 *     network ==TLS== thread --pair-- plain descriptor
 *
 * Each end's closing, of one direction or both, reaches the other. */
#pragma once

#include <stddef.h>

struct task;
struct tls;

/* A thread that serves with the key and the certificates of the PEM file: NULL, INVALID_VALUE [pem, reason].
 * To be ended by tls_end(). */
struct tls *tls_server(struct task *, const char *pem);
/* The plain end of a connection that was taken, whose descriptor is the thread's from now on; the handshake
 * goes on behind it.  -1: it could not be, and is closed. */
int tls_accept(struct tls *, int fd);

enum { TLS_FINGERPRINT = 32 }; /* SHA-256 of the certificate */

/* The other side: greets the server at fd, which is the thread's from now on, and says whose certificate it has;
 * the plain end, or -1: INTERNAL_ERROR [reason].  Ends by itself when the plain end is closed. */
int tls_connect(struct task *, int fd, const char *host, unsigned char ret_print[TLS_FINGERPRINT]);

/* Closes all connections, and ends the thread. */
void tls_end(struct tls *);
