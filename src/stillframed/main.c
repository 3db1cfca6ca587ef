// SPDX-License-Identifier: Apache-2.0
/* main.c -- the daemon's process: options, background, signals. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/account.h"
#include "api/settings.h"
#include "base/io.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "model/dump.h"
#include "stillframed/caretaker.h"
#include "stillframed/config.h"
#include "stillframed/startup.h"
#include "vmm/freeze.h"

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

/* In the background the log is a file; what is wrong with the start is still told to whoever
 * waits, on the standard error of before (returned). */
static int move_log(struct task *t, const char *state)
{
	int terminal = fcntl(2, F_DUPFD_CLOEXEC, 3);
	if (log_to_file(t, str(t, "%s/stillframed.log", state)) < 0)
		task_forgive(t); /* it stays where it is */
	return terminal;
}

/* What there is by now, for whoever has started it by hand. */
static void announce(struct task *t)
{
	const char *also =
		str(t, "%s%s%s%s", *settings.listen ? " and http://" : "", settings.listen,
		    *settings.listen_tls ? " and https://" : "", settings.listen_tls);
	printf("stillframed serves %s/xapi.sock%s; its log is %s/stillframed.log.\n%s\n",
	       settings.state, also, settings.state,
	       streq(settings.accel, "kvm")
		       ? "Guests run under KVM."
		       : "Guests are emulated (TCG), and slow: the log says why KVM is not used.");
	fflush(stdout);
}

static void say_ready(int ready, int terminal)
{
	FD_SCOPE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 0);
	dup2(null, 1);
	close(terminal);
	if (write(ready, "", 1) < 0)
		return; /* nobody waits any more */
}

static int complain(struct task *t, int terminal)
{
	if (t->code == INTERNAL_ERROR)
		dprintf(terminal, "stillframed: %s\n", t->params[0]);
	else
		dprintf(terminal, "stillframed: %s\n%s\n", task_error(t), code_rows[t->code].text);
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && streq(argv[1], FREEZER_OPTION))
		return freezer_main();
	if (argc == 4 && streq(argv[1], CARETAKER_OPTION))
		return caretaker_main(argv[2], argv[3]);
	if (argc == 3 && streq(argv[1], ACCOUNT_OPTION))
		return account_main(argv[2]);
	struct task *t = task_new(NULL, "main");
	struct config c;
	if (config_read(t, argc, argv, &c) < 0)
		return complain(t, 2);
	if (c.model) {
		model_dump(stdout);
		talloc_free(t);
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

	int terminal = 2;
	if (ready >= 0 && dir_make(t, c.state, 0711) == 0)
		terminal = move_log(t, c.state);
	if (t->code != NO_ERROR || startup(t, &c) < 0)
		return complain(t, terminal);
	if (ready >= 0) {
		announce(t);
		say_ready(ready, terminal);
	}
	int sig;
	sigwait(&set, &sig);
	shutdown_daemon(t);
	talloc_free(t);
	return 0;
}
