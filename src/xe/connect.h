// SPDX-License-Identifier: Apache-2.0
/* connect.h -- the way to the server. */
#pragma once

#include <stdbool.h>

struct task;
struct options;

/* A connection to the server that the options name, or -1 with the error recorded. */
int server_connect(struct task *, const struct options *);
/* To another host, as a redirection may ask for it; port NULL: the usual one. */
int server_connect_to(struct task *, bool tls, const char *host, const char *port);
