// SPDX-License-Identifier: Apache-2.0
/* run.h -- outside programs, by argument vector, never by shell, each with a deadline. */
#pragma once

#include <sys/types.h>

struct task;

struct run {
	const char *const *argv; /* NULL ended; argv[0] is looked up in PATH */
	int in, out;             /* descriptors for standard input and output; -1: /dev/null, and
	                             output is kept in ret_out */
	int timeout_ms;          /* then it is killed and the run fails */
	const char *ret_out;     /* what it printed, at most 1 MiB, on t */
	const char *ret_err;     /* what it complained, at most 1 MiB, on t */
	int ret_status;          /* exit status; 128 + signal when it was killed */
	/* NULL, or gets what it prints in the moment it does, in pieces cut anywhere; ret_out is "" then. */
	void (*heard)(struct task *, const char *piece);
};

/* Runs to the end.  Fails (and has killed the program) when it cannot be started, its time is
 * over or the task is cancelled.  A status other than 0 is no failure here.  The program dies
 * with this process, so that none goes on writing behind a recovery's back. */
int run(struct task *, struct run *);

/* What is wrong with the host, and not with us; of the program. */
#define RUN_NOT_INSTALLED                                                                          \
	"the program %s is not installed on this host: tools/setup names its package"

/* The same, failing with INTERNAL_ERROR [program: what it complained] on a status other than 0; with
 * OPERATION_NOT_ALLOWED when the program is not installed. */
int run_ok(struct task *, struct run *);

/* Only starts the program: its descriptors 0 to 3 become fds (-1: /dev/null, for the fourth none); it dies
 * with the calling thread.  The caller waits for *ret. */
int run_start(struct task *, const char *const *argv, const int fds[4], pid_t *ret);

#define RUN_ARGV(...) ((const char *const[]){ __VA_ARGS__, NULL })
