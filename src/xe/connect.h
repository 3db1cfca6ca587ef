// SPDX-License-Identifier: Apache-2.0
/* connect.h -- the way to the server. */
#pragma once

struct task;
struct options;

/* A connection to the server that the options name, or -1 with the error recorded. */
int server_connect(struct task *, const struct options *);
/* To another host, as a redirection may ask for it: over plain TCP, if --nossl allows that. */
int server_connect_to(struct task *, const struct options *, const char *host, const char *port);
