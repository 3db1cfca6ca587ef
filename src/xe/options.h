// SPDX-License-Identifier: Apache-2.0
/* options.h -- what xe keeps for itself of its command line, and what goes to the server.
 *
 * An option is given as a word (-s HOST), or as key=value (server=HOST): on the command line, in
 * XE_EXTRA_ARGS (separated by commas, `\,` is a comma), or on a line of ~/.xe.  The first of these
 * places that has it decides.  Everything else in all three is for the server. */
#pragma once

#include <stdbool.h>

#include "base/list.h"

struct task;

struct options {
	const char *server; /* NULL: the local socket */
	const char *port;   /* NULL: 443, or 80 with nossl */
	const char *user, *password;
	bool nossl, debug, debug_on_fail, verbose;
	struct list args; /* for the server, the command first */
	size_t typed; /* so many of them stood on the command line, before those of the other places */
};

/* The user's folder, where files of xe are: HOME, or where that is not set what the system's list of users says, as
 * for ssh.  NULL: neither tells. */
const char *home_folder(void);

/* argv as main() gets it.  Reads the files that it names. */
int options_read(struct task *, char **argv, struct options *ret);
