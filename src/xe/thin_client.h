// SPDX-License-Identifier: Apache-2.0
/* thin_client.h -- lets the server run a command, and does what it asks for meanwhile. */
#pragma once

struct task;
struct options;

/* Sends the command line and follows the server until it says Exit; 0 and its status, or -1 when it
 * never did.  What the server has to say is on standard output and error by then. */
int thin_client(struct task *, const struct options *, int *ret_status);
