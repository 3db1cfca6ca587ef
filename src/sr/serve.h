// SPDX-License-Identifier: Apache-2.0
/* serve.h -- a qemu-storage-daemon that serves volumes over NBD, for as long as a transfer takes.
 *
 * It opens a volume by the layout's own description, layer by layer, and an image from outside as the
 * format that the caller has made sure of, without a backing file: so that no program guesses a format or
 * follows a name in an image.  It dies with this thread.  Of root's daemon, the one that opens an image is a
 * process of nobody, without privileges: then it may serve nothing else. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct task;
struct sr;

/* What is served: a volume; or, with sr NULL, the qcow2 image that is open as `image`. */
struct served {
	const struct sr *sr;
	const char *id;
	bool writable;
	int image;
	const char
		*node; /* set by serve_start(): top of its chain, which is also the export's name */
};

struct server {
	const struct served *served; /* n of them */
	size_t n;
	const char *id; /* of the volume that is named when something fails */
	bool image;     /* it is no volume but an image from outside */
	pid_t pid;
	const char *folder; /* private, holds the socket */
	const char *socket;
	int complaints; /* memory file: standard error of it, and of whoever reads or writes for it */
};

/* Starts it with n things to serve, at most one of them an image; errors are about the last one.
 * After a failure, too, serve_end() is to be called. */
int serve_start(struct task *, struct server *, struct served *v, size_t n);
/* result 0: tells it to end, waits until it has closed what it served, and fails if that did not go well.
 * Else it is killed.  Returns result, or -1. */
int serve_end(struct task *, struct server *, int result);

/* At the start: removes the folders of daemons that were killed. */
void serve_tidy(struct task *);

/* Waits for a program's end.  1: it ended well, 0: it did not, -1: failed. */
int serve_wait(struct task *, pid_t *pid);
void serve_kill(pid_t *pid);

/* What the programs complained of: SR_BACKEND_FAILURE_44 or _46, IMPORT_ERROR for an image. */
int serve_complain(struct task *, struct server *);
/* A connection that broke is no cause: the program behind it ended, and said why; and of an image, what
 * was found to be wrong with it.  -1. */
int serve_find_cause(struct task *, struct server *, pid_t pid);
