// SPDX-License-Identifier: Apache-2.0
/* main.c -- the daemon's process: options, background, signals. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "model/dump.h"
#include "stillframed/config.h"
#include "stillframed/startup.h"

/* The parent stays until the child serves clients (it then reads a byte) or has failed. */
static int go_background(void)
{
	int ready[2];
	char byte;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		close(ready[0]);
		return ready[1];
	}
	close(ready[1]);
	_exit(pid > 0 && read(ready[0], &byte, 1) == 1 ? 0 : 1);
}

static void detach(struct task *t, const char *state, int ready)
{
	FD_SCOPE int log = open(str(t, "%s/stillframed.log", state),
				O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	FD_SCOPE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 0);
	dup2(null, 1);
	if (log >= 0)
		dup2(log, 2);
	if (write(ready, "", 1) < 0)
		return; /* nobody waits any more */
}

static int complain(struct task *t)
{
	fprintf(stderr, "stillframed: %s\n%s\n", task_error(t), code_rows[t->code].text);
	return 1;
}

int main(int argc, char **argv)
{
	struct task *t = task_new(NULL, "main");
	struct config c;
	if (config_read(t, argc, argv, &c) < 0)
		return complain(t);
	if (c.model) {
		model_dump(stdout);
		return 0;
	}
	int ready = c.foreground ? -1 : go_background();

	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);

	if (startup(t, &c) < 0)
		return complain(t);
	if (ready >= 0)
		detach(t, c.state, ready);
	int sig;
	sigwait(&set, &sig);
	shutdown_daemon(t);
	talloc_free(t);
	return 0;
}
