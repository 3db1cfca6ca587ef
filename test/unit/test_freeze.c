// SPDX-License-Identifier: Apache-2.0
/* test_freeze.c -- a freezer, a process of its own, and agents that a thread plays: however it ends, they are told to
 * thaw. */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/agent.h"
#include "vmm/freeze.h"

#include "check.h"

enum { FILE_SYSTEMS = 3, SOON_MS = 5000, MS = 500 };

enum kind { HONEST, REFUSES, SILENT, FEWER, LATE, THAW_FAILS };

/* It is frozen or not, whatever it says. */
struct played {
	enum kind kind;
	int fd;
	pthread_t thread;
	_Atomic int frozen, freezes, thaws;
	char mounts[64];
};

static __attribute__((format(printf, 2, 3))) void reply(struct played *p, const char *fmt, ...)
{
	char line[200];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (write(p->fd, line, (size_t)n) < 0)
		return;
}

static void freeze_it(struct played *p, const char *line)
{
	const char *at = strstr(line, "mountpoints");
	snprintf(p->mounts, sizeof p->mounts, "%s", at ? at : "");
	p->freezes++;
	if (p->kind == REFUSES) {
		reply(p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no 7\"}}\n");
		return;
	}
	if (p->kind == LATE)
		usleep(2 * MS * 1000);
	p->frozen = FILE_SYSTEMS;
	if (p->kind != SILENT)
		reply(p, "{\"return\": %d}\n", FILE_SYSTEMS);
}

static void thaw_it(struct played *p)
{
	int n = p->frozen;
	p->thaws++;
	p->frozen = 0;
	if (p->kind == THAW_FAILS && n)
		reply(p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"10 s\"}}\n");
	else
		reply(p, "{\"return\": %d}\n", p->kind == FEWER && n ? n - 1 : n);
}

static void heed(struct played *p, const char *line)
{
	const char *id = strstr(line, "\"id\"");
	if (id)
		reply(p, "\xff{\"return\": %lld}\n", atoll(id + strcspn(id, "0123456789")));
	else if (strstr(line, "fsfreeze-freeze"))
		freeze_it(p, line);
	else if (strstr(line, "fsfreeze-thaw"))
		thaw_it(p);
	else if (strstr(line, "fsfreeze-status"))
		reply(p, "{\"return\": \"%s\"}\n", p->frozen ? "frozen" : "thawed");
}

static void *play(void *arg)
{
	struct played *p = arg;
	char line[4096];
	FILE *f = fdopen(dup(p->fd), "r");
	while (fgets(line, sizeof line, f))
		heed(p, line);
	fclose(f);
	return NULL;
}

static int play_begin(struct played *p, enum kind kind)
{
	int pair[2];
	*p = (struct played){ .kind = kind };
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	p->fd = pair[1];
	CHECK(pthread_create(&p->thread, NULL, play, p) == 0);
	return pair[0];
}

static void play_end(struct played *p, int port)
{
	close(port);
	shutdown(p->fd, SHUT_RDWR);
	pthread_join(p->thread, NULL);
	close(p->fd);
}

static bool soon(const _Atomic int *n, int wanted)
{
	for (int64_t until = clock_ms() + SOON_MS; clock_ms() < until; usleep(10000))
		if (*n == wanted)
			return true;
	return false;
}

static void test_taken(struct task *t)
{
	struct played p;
	struct list mounts = { 0 };
	enum freeze_failure how;
	double ms = 0;
	int port = play_begin(&p, HONEST);
	list_add(t, &mounts, "/a");
	list_add(t, &mounts, "/b \"");
	struct freeze *f = freeze_open(t, port, &how);
	CHECK(f && p.frozen == 0 && p.freezes == 0);
	CHECK(freeze_guest(t, f, &mounts, MS, &how) == 0 && p.frozen == FILE_SYSTEMS);
	CHECK(strstr(p.mounts, "[\"/a\",\"/b \\\"\"]"));
	usleep(20000);
	CHECK(freeze_thaw(t, f, &ms, &how) == 0 && p.frozen == 0);
	CHECK(ms >= 20 && ms < SOON_MS && p.thaws == 1);
	freeze_close(f);
	CHECK(p.thaws == 1);
	play_end(&p, port);
}

/* What it fails with, and that it is thawed. */
static void test_failures(struct task *t)
{
	static const struct {
		enum kind kind;
		enum freeze_failure how;
		const char *why;
		bool at_thaw;
	} rows[] = {
		{ REFUSES, FREEZE_REFUSED, "no 7", false },
		{ SILENT, FREEZE_NO_ANSWER, "no answer in time", false },
		{ LATE, FREEZE_NO_ANSWER, "no answer in time", false },
		{ FEWER, FREEZE_BROKEN, "of 3 frozen file systems 2", true },
		{ THAW_FAILS, FREEZE_BROKEN, "10 s", true },
	};
	struct list all = { 0 };
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct played p;
		enum freeze_failure how;
		double ms;
		int port = play_begin(&p, rows[i].kind);
		struct freeze *f = freeze_open(t, port, &how);
		CHECK(f);
		int frozen = freeze_guest(t, f, &all, MS, &how);
		CHECK((frozen == 0) == rows[i].at_thaw);
		if (frozen == 0)
			CHECK(freeze_thaw(t, f, &ms, &how) < 0);
		CHECK(how == rows[i].how && strstr(t->params[0], rows[i].why));
		task_forgive(t);
		freeze_close(f);
		CHECK(soon(&p.freezes, 1) && soon(&p.frozen, 0));
		play_end(&p, port);
	}
}

/* Whoever had it started is gone, without a word, before, while or after it is frozen. */
static void test_left_alone(struct task *t)
{
	struct list all = { 0 };
	for (int after = 0; after < 2; after++) {
		struct played p;
		enum freeze_failure how;
		int port = play_begin(&p, HONEST);
		struct freeze *f = freeze_open(t, port, &how);
		CHECK(f);
		if (after)
			CHECK(freeze_guest(t, f, &all, MS, &how) == 0 && p.frozen);
		close(*(int *)f); /* its first member */
		CHECK(soon(&p.frozen, 0) && p.thaws == after);
		*(int *)f = -1;
		play_end(&p, port);
	}
}

static void test_silent_from_the_start(struct task *t)
{
	enum freeze_failure how;
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	close(pair[1]);
	CHECK(!freeze_open(t, pair[0], &how) && how == FREEZE_NO_ANSWER);
	task_forgive(t);
	close(pair[0]);
}

static void test_release(struct task *t)
{
	struct played p;
	int port = play_begin(&p, HONEST);
	struct agent *a = agent_new(t, dup(port));
	p.frozen = 1;
	CHECK(freeze_release(t, a) == 0 && p.frozen == 0);
	talloc_free(a);
	play_end(&p, port);
}

int main(int argc, char **argv)
{
	if (argc == 2 && streq(argv[1], FREEZER_OPTION))
		return freezer_main();
	struct task *t = task_new(NULL, "test");
	signal(SIGPIPE, SIG_IGN);
	test_taken(t);
	test_failures(t);
	test_left_alone(t);
	test_silent_from_the_start(t);
	test_release(t);
	talloc_free(t);
	return 0;
}
