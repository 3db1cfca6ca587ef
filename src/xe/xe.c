// SPDX-License-Identifier: Apache-2.0
/* xe.c -- the client: knows no command itself, but sends the words to the server and lends it the
 * terminal and files while it works. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/frame.h"
#include "base/task.h"
#include "base/text.h"
#include "xe/options.h"
#include "xe/say.h"
#include "xe/thin_client.h"

#ifndef STILLFRAME_VERSION
#define STILLFRAME_VERSION "0.1.0"
#endif

static const char usage[] =
	"Usage: xe <command> [<name>=<value>]... [--<flag>]... [option]...\n"
	"\n"
	"    -s, -h <host>     the server; this host when left out\n"
	"    -p <port>         its port\n"
	"    -u <user>         the user, root when left out\n"
	"    -pw <password>\n"
	"    -pwf <file>       user and password on two lines\n"
	"    --nossl           without encryption\n"
	"    --minimal         print values alone, separated by commas\n"
	"    --debug           print what the server has to say about its work\n"
	"    --debug-on-fail   the same, if the command fails\n"
	"    --verbose         print notes also when standard error is no terminal\n"
	"    --version\n"
	"\n"
	"`xe help` lists the commands, `xe help <command>` tells about one.\n";

static struct task *the_task;
static volatile sig_atomic_t the_signal;

/* Everything waits in task_wait(), is woken by this, fails, and cleans up behind itself.  The
 * connection's end is what cancels the command at the server. */
static void on_signal(int number)
{
	the_signal = number;
	task_interrupt(the_task);
}

static void catch_signals(struct task *t)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction act = { .sa_handler = on_signal };
	the_task = t;
	t->cancellable = true;
	for (size_t i = 0; i < COUNT(numbers); i++)
		sigaction(numbers[i], &act, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int version(void)
{
	printf("xe %s, the client of Stillframe\nThinCLI protocol: %d.%d\n", STILLFRAME_VERSION,
	       FRAME_MAJOR, FRAME_MINOR);
	return fflush(stdout) == 0 ? 0 : 1;
}

static bool is_word(const char *s, const char *const *words)
{
	while (*words && !streq(s, *words))
		words++;
	return *words;
}

/* `xe ... | head`: whoever closed the pipe wants no message about it. */
static bool output_closed(void)
{
	struct pollfd p = { .fd = STDOUT_FILENO };
	return poll(&p, 1, 0) == 1 && p.revents & POLLERR;
}

static int run_command(struct task *t, const struct options *o)
{
	int status;
	if (o->server && !o->password)
		return fail(t, INTERNAL_ERROR, "Username/password must be specified");
	return thin_client(t, o, &status) < 0 ? -1 : status;
}

static int run(struct task *t, char **argv)
{
	static const char *const versions[] = { "-version", "--version", NULL };
	static const char *const helps[] = { "-help", "--help", NULL };
	struct options o;
	if (options_read(t, argv, &o) < 0)
		return -1;
	const char *command = o.args.n ? o.args.v[0] : "--help";
	if (is_word(command, versions))
		return version();
	if (is_word(command, helps))
		return fputs(usage, stdout) < 0 || fflush(stdout) ? 1 : 0;
	return run_command(t, &o);
}

int main(int argc, char **argv)
{
	(void)argc;
	struct task *t = task_new(NULL, "xe");
	catch_signals(t);
	int status = run(t, argv);
	if (status < 0) {
		status = 1;
		if (t->code != TASK_CANCELLED && !output_closed())
			fprintf(stderr, "%s\n", what_failed(t));
	}
	talloc_free(t);
	if (the_signal) {
		signal(the_signal, SIG_DFL);
		raise(the_signal);
	}
	return status;
}
