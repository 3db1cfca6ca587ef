// SPDX-License-Identifier: Apache-2.0
/* rival.h -- another process that has an image open, as another host's or a clone's QEMU would. */
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "unit/check.h"

struct rival {
	pid_t pid;
	int words; /* its standard input: it ends with that */
};

/* Reads it only, or writes it, too.  It has it when it asks what to do. */
static inline struct rival rival_opens(struct task *t, bool writes, const char *file)
{
	const char *const *argv = writes ? RUN_ARGV("qemu-io", "-f", "qcow2", file)
					 : RUN_ARGV("qemu-io", "-r", "-f", "qcow2", file);
	int words[2], said[2];
	struct rival r;
	char prompt;
	CHECK(pipe2(words, O_CLOEXEC) == 0 && pipe2(said, O_CLOEXEC) == 0);
	CHECK(run_start(t, argv, (int[]){ words[0], said[1], -1, -1 }, &r.pid) == 0);
	close(words[0]);
	close(said[1]);
	CHECK(io_read(t, said[0], &prompt, 1, 60000) == 1);
	close(said[0]);
	r.words = words[1];
	return r;
}

static inline void rival_ends(struct rival *r)
{
	close(r->words);
	kill(r->pid, SIGKILL);
	CHECK(waitpid(r->pid, NULL, 0) == r->pid);
}
