// SPDX-License-Identifier: Apache-2.0
/* progress.h -- a bar on standard error, one line, for a file that is sent or received:
 *
 *     [==============>               ]  48 %   1.2 GiB   210.5 MiB/s
 *
 * Drawn when standard error is a terminal, unless progress=false is on the command line; else only with
 * progress=true. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct options;
struct list;

struct progress {
	bool on;
	long long total; /* bytes, -1: not known */
	long long done;
	int64_t begun, drawn; /* on clock_ms(); drawn 0: not yet */
};

void progress_begin(struct progress *, const struct options *, long long total);
void progress_add(struct progress *, long long bytes);
/* Ends the line, if there is one. */
void progress_end(struct progress *);

/* Is it to be drawn? */
bool progress_wanted(const struct list *args, bool terminal);
/* The line, on ctx, as it is after so many milliseconds. */
char *progress_line(const void *ctx, const struct progress *, int64_t ms);
