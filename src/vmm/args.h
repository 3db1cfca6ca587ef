// SPDX-License-Identifier: Apache-2.0
/* args.h -- QEMU's command line, and the descriptors that it inherits.
 *
 * QEMU runs as nobody in particular and opens no path: every file and socket is opened here.  What
 * it can use as a descriptor is inherited as such; what it wants as a file name gets a *set*:
 *
 *     -add-fd fd=9,set=3  -blockdev {... "filename":"/dev/fdset/3"} */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct task;
struct vmm_config;

/* On a task; the descriptors are closed when it is freed. */
struct args {
	const char **argv; /* NULL ended */
	size_t n;
	int *fds;
	size_t nfds;
	int nsets;
};

/* The whole line for a VM, whose sockets now listen in config.dir: qmp.sock,
 * serial.sock, agent.sock. */
struct args *args_vm(struct task *, const struct vmm_config *);

/* The name by which QEMU finds the image that it comes back from. */
const char *args_image(struct task *);

/* An option and its value (NULL: none), copied. */
void args_add(struct args *, const char *option, const char *value);
/* Takes over fd, which will be inherited under its number. */
void args_fd(struct args *, int fd);
/* Takes over fd as part of a set.  note: what it is for, NULL: to be used at the start only. */
void args_fd_in_set(struct args *, int fd, int set, const char *note);
/* The name of a set of its own for fd: 1, 2, ... */
int args_set(struct args *, int fd);
/* A socket DIR/NAME.sock as the character device NAME.  It listens already, so that whoever connects early
 * waits instead of failing.  more: further options. */
int args_listener(struct task *, struct args *, const char *dir, const char *name,
		  const char *more);
/* The whole path of a program, for what is between fork and exec must not search; NULL: not installed. */
const char *args_program(struct task *, const char *name);
/* The argument that marks this VM's process among others. */
const char *args_mark(struct task *, const char *uuid);
