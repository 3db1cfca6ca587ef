// SPDX-License-Identifier: Apache-2.0
#include "vmm/freeze.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/delay.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/agent.h"
#include "vmm/apart.h"

enum { RELEASES = 2 };

struct freeze {
	int fd; /* -1: the freezer has ended */
};

/* ---- words ---- */

static int lost(struct task *t, enum freeze_failure *ret_how)
{
	*ret_how = FREEZE_LOST;
	return fail(t, INTERNAL_ERROR, "the process that freezes the guest has ended");
}

static int say(struct task *t, struct freeze *f, const char *words, enum freeze_failure *ret_how)
{
	size_t n = strlen(words);
	if (n > APART_PACKET)
		return fail(t, INTERNAL_ERROR, "too many mount points are named");
	if (send(f->fd, words, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
		return lost(t, ret_how);
	return 0;
}

/* "failed KIND WHY" */
static int failed(struct task *t, const char *said, enum freeze_failure *ret_how)
{
	int kind = FREEZE_LOST, at = 0;
	sscanf(said, "failed %d %n", &kind, &at);
	*ret_how = kind >= FREEZE_NO_ANSWER && kind < FREEZE_LOST ? (enum freeze_failure)kind
								  : FREEZE_LOST;
	return fail(t, INTERNAL_ERROR, at ? said + at : said);
}

/* What it says, which is to begin with this word.  NULL: failed. */
static const char *hear(struct task *t, struct freeze *f, const char *word, int ms,
			enum freeze_failure *ret_how)
{
	char *said = talloc_zero_array(t, char, APART_PACKET + 1);
	int ready = task_wait(t, f->fd, POLLIN, ms);
	*ret_how = FREEZE_NO_ANSWER;
	if (ready < 0)
		return NULL;
	if (ready == 0)
		return fail_ptr(t, INTERNAL_ERROR, "the process that freezes the guest is silent");
	if (recv(f->fd, said, APART_PACKET, MSG_DONTWAIT) <= 0)
		return lost(t, ret_how), NULL;
	if (!starts_with(said, word))
		return failed(t, said, ret_how), NULL;
	return said;
}

/* ---- the contract ---- */

static int closed(struct freeze *f)
{
	freeze_close(f);
	return 0;
}

static struct freeze *launch(struct task *t, int port)
{
	static const char *const argv[] = { "stillframe-freezer", FREEZER_OPTION, NULL };
	int words = apart_open(t, argv, &port, 1);
	if (words < 0)
		return NULL;
	struct freeze *f = talloc(t, struct freeze);
	f->fd = words;
	talloc_set_destructor(f, closed);
	return f;
}

struct freeze *freeze_open(struct task *t, int port, enum freeze_failure *ret_how)
{
	*ret_how = FREEZE_LOST;
	struct freeze *f = launch(t, port);
	if (f && hear(t, f, "ready", delay_ms(DELAY_FREEZER_READY), ret_how))
		return f;
	if (f)
		freeze_close(f);
	return NULL;
}

int freeze_guest(struct task *t, struct freeze *f, const struct list *mounts, int ms,
		 enum freeze_failure *ret_how)
{
	const char *words = str(t, "freeze %d %d\n%s", ms, delay_ms(DELAY_FREEZE_HOLD),
				list_join(t, mounts, "\n"));
	return say(t, f, words, ret_how) < 0 ||
			       !hear(t, f, "frozen", ms + delay_ms(DELAY_FREEZER_SLACK), ret_how)
		       ? -1
		       : 0;
}

int freeze_thaw(struct task *t, struct freeze *f, double *ret_ms, enum freeze_failure *ret_how)
{
	int n;
	const char *said =
		say(t, f, "thaw", ret_how) < 0
			? NULL
			: hear(t, f, "thawed",
			       delay_ms(DELAY_FREEZE_THAW) + delay_ms(DELAY_FREEZER_SLACK),
			       ret_how);
	if (!said)
		return -1;
	return sscanf(said, "thawed %d %lf", &n, ret_ms) == 2 ? 0 : lost(t, ret_how);
}

void freeze_interrupt(struct freeze *f)
{
	shutdown(f->fd, SHUT_RDWR);
}

void freeze_close(struct freeze *f)
{
	apart_close(&f->fd, delay_ms(DELAY_FREEZER_LEAVE));
}

/* ---- without a freezer ---- */

const char *freeze_status(struct task *t, struct agent *a, int ms)
{
	struct agent_call c = { .command = "guest-fsfreeze-status", .ms = ms };
	if (agent_call(t, a, &c) < 0)
		return NULL;
	const char *is = json_string_value(c.ret);
	return is ? is : "";
}

int freeze_release(struct task *t, struct agent *a)
{
	for (int n = 0; n < RELEASES; n++) {
		if (agent_tell(t, a, "guest-fsfreeze-thaw", delay_ms(DELAY_FREEZE_RELEASE)) < 0)
			return -1;
		const char *is = freeze_status(t, a, delay_ms(DELAY_FREEZE_RELEASE));
		if (!is)
			return -1;
		if (streq(is, "thawed"))
			return 0;
	}
	return fail(t, INTERNAL_ERROR, "the guest's agent does not say that it is thawed");
}
