// SPDX-License-Identifier: Apache-2.0
/* freezer.c -- the process that holds a guest frozen; freeze.h draws what it hears and says. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/agent.h"
#include "vmm/apart.h"
#include "vmm/freeze.h"

enum {
	PORT = APART_FIRST, /* to the agent */
	WORDS,              /* with whoever started it */
	WHY = 300,          /* characters of an agent's words */
};

enum word { NOTHING, FREEZE = 1, THAW = 2, LEAVE = 4, GONE = 8 };

struct freezer {
	struct task *t;
	struct agent *agent;
	int words;    /* -1: nobody is there */
	bool left;    /* somebody else cares from now on */
	int n;        /* file systems that were frozen */
	double since; /* when that was answered, ms */
	int ms, hold_ms;
	struct list mounts;
};

/* ---- words ---- */

static void say(struct freezer *f, const char *text)
{
	if (f->words >= 0)
		send(f->words, text, strlen(text), MSG_NOSIGNAL);
}

static void say_failed(struct freezer *f, enum freeze_failure kind, const char *why)
{
	say(f, str(f->t, "failed %d %s", kind, text_plain(f->t, why, WHY)));
}

/* What the task failed with, forgiven. */
static const char *reason(struct freezer *f)
{
	const char *why = f->t->code == INTERNAL_ERROR ? f->t->params[0] : task_error(f->t);
	task_forgive(f->t);
	return why;
}

/* "freeze MS HOLD_MS", and a mount point a line */
static bool read_freeze(struct freezer *f, char *said)
{
	char *line = strsep(&said, "\n");
	if (sscanf(line, "freeze %d %d", &f->ms, &f->hold_ms) != 2)
		return false;
	while (said && (line = strsep(&said, "\n")))
		if (*line)
			list_add(f->t, &f->mounts, line);
	return true;
}

/* The next word, if there is one within that time. */
static enum word next_word(struct freezer *f, int ms)
{
	char said[APART_PACKET + 1];
	struct pollfd p = { .fd = f->words, .events = POLLIN };
	if (poll(&p, 1, ms) <= 0)
		return NOTHING;
	ssize_t n = recv(f->words, said, APART_PACKET, MSG_DONTWAIT);
	if (n <= 0) {
		fd_close(&f->words);
		return GONE;
	}
	said[n] = 0;
	if (streq(said, "thaw"))
		return THAW;
	f->left |= streq(said, "leave");
	return f->left ? LEAVE : read_freeze(f, said) ? FREEZE : NOTHING;
}

/* ---- questions ---- */

enum heard { ANSWERED, REFUSED, UNHEARD, WORD };

static void wait_both(struct freezer *f, int ms)
{
	struct pollfd p[2] = {
		{ .fd = agent_descriptor(f->agent), .events = POLLIN },
		{ .fd = f->words, .events = POLLIN },
	};
	poll(p, 2, ms);
}

/* Asks the agent, and breaks off at a word that is heeded.  The reason is the task's where there is no answer. */
static enum heard ask(struct freezer *f, struct agent_call *c, unsigned heeds)
{
	double until = clock_exact_ms() + c->ms;
	if (agent_say(f->t, f->agent, c) < 0)
		return UNHEARD;
	for (;;) {
		int heard = agent_hear(f->t, f->agent, c, 0);
		if (heard > 0)
			return ANSWERED;
		if (heard < 0)
			return c->ret_class ? REFUSED : UNHEARD;
		if (next_word(f, 0) & heeds)
			return WORD;
		double left = until - clock_exact_ms();
		if (left <= 0)
			break;
		wait_both(f, (int)left + 1);
	}
	fail(f->t, INTERNAL_ERROR, str(f->t, "guest agent: %s: no answer in time", c->command));
	return UNHEARD;
}

static bool is_thawed(struct freezer *f, enum heard *ret)
{
	struct agent_call c = { .command = "guest-fsfreeze-status",
				.ms = delay_ms(DELAY_FREEZER_ASK) };
	*ret = ask(f, &c, LEAVE);
	const char *is = *ret == ANSWERED ? json_string_value(c.ret) : NULL;
	task_forgive(f->t);
	return is && streq(is, "thawed");
}

/* Until the agent says that the guest is thawed, or somebody else cares. */
static void let_go(struct freezer *f)
{
	double until = clock_exact_ms() + delay_ms(DELAY_FREEZER_STAY);
	while (clock_exact_ms() < until) {
		enum heard heard;
		agent_tell(f->t, f->agent, "guest-fsfreeze-thaw", delay_ms(DELAY_FREEZER_ASK));
		task_forgive(f->t);
		if (f->left || is_thawed(f, &heard) || f->left)
			return;
		struct pollfd gone = { .fd = agent_descriptor(f->agent), .events = POLLRDHUP };
		if (poll(&gone, 1, 0) > 0 && gone.revents)
			return;
		if (next_word(f, delay_ms(DELAY_FREEZER_AGAIN)) == LEAVE)
			return;
	}
}

/* ---- the steps ---- */

/* One who is frozen already was left so by somebody: nobody else has the port. */
static bool meet(struct freezer *f)
{
	struct agent_call c = { .command = "guest-fsfreeze-status",
				.ms = delay_ms(DELAY_FREEZER_MEET) };
	enum heard heard = ask(f, &c, LEAVE | GONE);
	const char *is = heard == ANSWERED ? json_string_value(c.ret) : NULL;
	if (heard == WORD)
		return false;
	if (!is) {
		say_failed(f, heard == REFUSED ? FREEZE_REFUSED : FREEZE_NO_ANSWER,
			   f->t->code ? reason(f) : "its status makes no sense");
		return false;
	}
	if (streq(is, "thawed"))
		return true;
	agent_tell(f->t, f->agent, "guest-fsfreeze-thaw", delay_ms(DELAY_FREEZER_ASK));
	if (is_thawed(f, &heard))
		return true;
	task_forgive(f->t);
	say_failed(f, FREEZE_NO_ANSWER, "the guest was frozen before, and does not thaw");
	return false;
}

static json_t *mount_points(const struct freezer *f)
{
	json_t *points = json_array();
	for (size_t i = 0; i < f->mounts.n; i++)
		json_array_append_new(points, json_string(f->mounts.v[i]));
	return json_pack("{s:o}", "mountpoints", points);
}

/* False: it is not frozen, or will be later. */
static bool freeze(struct freezer *f)
{
	struct agent_call c = { .command = "guest-fsfreeze-freeze", .ms = f->ms };
	if (f->mounts.n) {
		c.command = "guest-fsfreeze-freeze-list";
		c.arguments = mount_points(f);
	}
	enum heard heard = ask(f, &c, LEAVE | GONE);
	f->since = clock_exact_ms();
	f->n = heard == ANSWERED && json_is_integer(c.ret) ? (int)json_integer_value(c.ret) : 0;
	if (f->n > 0) {
		say(f, str(f->t, "frozen %d", f->n));
		return true;
	}
	if (heard == ANSWERED)
		say_failed(f, FREEZE_REFUSED, "the agent has found no file system to freeze");
	else if (heard != WORD)
		say_failed(f, heard == REFUSED ? FREEZE_REFUSED : FREEZE_NO_ANSWER, reason(f));
	return false;
}

/* True: we were told to thaw, in time. */
static bool hold(struct freezer *f)
{
	for (;;) {
		double left = f->since + f->hold_ms - clock_exact_ms();
		enum word w = left > 0 ? next_word(f, (int)left + 1) : NOTHING;
		if (w == THAW)
			return true;
		if (left <= 0)
			say_failed(f, FREEZE_BROKEN,
				   str(f->t, "it was to be frozen for %d ms at most", f->hold_ms));
		if (left <= 0 || w & (LEAVE | GONE))
			return false;
	}
}

/* False: something is wrong with it. */
static bool thaw(struct freezer *f)
{
	struct agent_call c = { .command = "guest-fsfreeze-thaw",
				.ms = delay_ms(DELAY_FREEZE_THAW) };
	double held = clock_exact_ms() - f->since;
	enum heard heard = ask(f, &c, LEAVE);
	int n = heard == ANSWERED && json_is_integer(c.ret) ? (int)json_integer_value(c.ret) : 0;
	if (heard == ANSWERED && n >= f->n)
		say(f, str(f->t, "thawed %d %.3f", n, held));
	else if (heard == ANSWERED)
		say_failed(f, FREEZE_BROKEN,
			   str(f->t, "of %d frozen file systems %d were frozen still at the thaw",
			       f->n, n));
	else if (heard != WORD)
		say_failed(f, heard == REFUSED ? FREEZE_BROKEN : FREEZE_NO_ANSWER, reason(f));
	return heard == ANSWERED && n >= f->n;
}

int freezer_main(void)
{
	struct task *t = task_new(NULL, "freezer");
	struct freezer f = { .t = t, .words = WORDS };
	signal(SIGPIPE, SIG_IGN);
	f.agent = agent_new(t, PORT);
	if (meet(&f)) {
		say(&f, "ready");
		if (next_word(&f, delay_ms(DELAY_FREEZER_WAIT)) == FREEZE &&
		    !(freeze(&f) && hold(&f) && thaw(&f)))
			let_go(&f);
	}
	talloc_free(t);
	return 0;
}
