// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/task.h"
#include "base/text.h"

#define MARK '\xff'

/* ---- lines ---- */

/* How many bytes stand before the first end of line or mark. */
static size_t plain_bytes(const char *s, size_t n)
{
	size_t i = 0;
	while (i < n && s[i] != '\n' && s[i] != MARK)
		i++;
	return i;
}

static size_t bytes_up_to_mark(const char *s, size_t n)
{
	const char *mark = memchr(s, (unsigned char)MARK, n);
	return mark ? (size_t)(mark - s) : n;
}

static bool is_blank(const struct agent_lines *l)
{
	return l->line.n == 0 || l->line.text[strspn(l->line.text, " \t\r")] == 0;
}

ssize_t agent_feed(struct agent_lines *l, const char *bytes, size_t n, bool after_mark,
		   const char **ret_line, size_t *ret_n)
{
	*ret_line = NULL;
	for (size_t at = 0; at < n; at++) {
		bool skip = after_mark && !l->marked;
		size_t more = skip ? bytes_up_to_mark(bytes + at, n - at)
				   : plain_bytes(bytes + at, n - at);
		if (!skip && buffer_add(&l->line, bytes + at, more, AGENT_REPLY_LIMIT) < 0)
			return -1;
		at += more;
		if (at == n)
			break;
		bool wanted = bytes[at] == '\n' && !is_blank(l);
		l->marked = bytes[at] == MARK;
		*ret_n = l->line.n;
		l->line.n = 0;
		if (wanted) {
			*ret_line = l->line.text;
			return (ssize_t)at + 1;
		}
	}
	return (ssize_t)n;
}

bool agent_is_sync(const char *line, json_int_t id)
{
	long long number;
	int end = 0;
	return sscanf(line, " { \"return\" : %18lld } %n", &number, &end) == 1 && end > 0 &&
	       !line[end] && number == id;
}

json_t *agent_read(struct task *t, const char *line, size_t n)
{
	if (json_shape(line, n).values > AGENT_VALUES_LIMIT)
		return fail_ptr(t, INTERNAL_ERROR, "its reply holds too much");
	json_t *m = json_read(t, line, n, AGENT_DEPTH_LIMIT);
	if (json_is_object(m))
		return m;
	task_forgive(t); /* the reason would quote the guest */
	return fail_ptr(t, INTERNAL_ERROR, "its reply makes no sense");
}

/* ---- the connection ---- */

struct agent {
	int fd;
	struct agent_lines lines;
	bool adrift; /* what will be read is not known to be the answer to what was said */
	bool closed;
	char chunk[16384]; /* read, and partly taken */
	size_t taken, filled;
};

/* How long and how much is listened to. */
struct patience {
	int64_t until;
	size_t bytes;
	bool after_mark;
	bool silent; /* it ended since nothing came any more */
};

static int agent_free(struct agent *a)
{
	close(a->fd);
	free(a->lines.line.text);
	return 0;
}

struct agent *agent_new(const void *ctx, int fd)
{
	struct agent *a = talloc_zero(ctx, struct agent);
	a->fd = fd;
	a->adrift = true;
	talloc_set_destructor(a, agent_free);
	return a;
}

static int left_ms(int64_t until)
{
	int64_t left = until - clock_ms();
	return left > 0 ? (int)left : 0;
}

static int say(struct task *t, struct agent *a, const char *text, int64_t until)
{
	for (size_t n = strlen(text), done = 0; done < n;) {
		int ready = task_wait(t, a->fd, POLLOUT, left_ms(until));
		if (ready < 0)
			return -1;
		if (ready == 0)
			return fail(t, INTERNAL_ERROR, "its port takes nothing");
		ssize_t sent = send(a->fd, text + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0)
			done += (size_t)sent;
		else if (errno != EINTR && errno != EAGAIN)
			return fail(t, INTERNAL_ERROR, "its port is closed");
	}
	return 0;
}

static int fill(struct task *t, struct agent *a, struct patience *p)
{
	if (!p->bytes)
		return fail(t, INTERNAL_ERROR, "it does not end its reply");
	int ready = task_wait(t, a->fd, POLLIN, left_ms(p->until));
	if (ready < 0)
		return -1;
	p->silent = true;
	if (ready == 0)
		return fail(t, INTERNAL_ERROR, "no answer in time");
	size_t most = p->bytes < sizeof a->chunk ? p->bytes : sizeof a->chunk;
	ssize_t got = recv(a->fd, a->chunk, most, MSG_DONTWAIT);
	a->closed = got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
	if (a->closed)
		return fail(t, INTERNAL_ERROR, "its port was closed");
	p->silent = false;
	a->taken = 0;
	a->filled = got > 0 ? (size_t)got : 0;
	p->bytes -= a->filled;
	return 0;
}

/* The next line, until the one after it is asked for; NULL: failed. */
static const char *hear(struct task *t, struct agent *a, struct patience *p, size_t *ret_n)
{
	for (;;) {
		const char *line;
		ssize_t used = agent_feed(&a->lines, a->chunk + a->taken, a->filled - a->taken,
					  p->after_mark, &line, ret_n);
		if (used < 0)
			return fail_ptr(t, INTERNAL_ERROR, "it does not end its reply");
		a->taken += (size_t)used;
		if (line)
			return line;
		if (fill(t, a, p) < 0)
			return NULL;
	}
}

/* ---- calls ---- */

static char *request(struct task *t, const char *command, json_t *arguments)
{
	json_t *m = json_pack("{s:s, s:O*}", "execute", command, "arguments", arguments);
	char *text = json_text(t, m);
	json_decref(m);
	return talloc_strdup_append(text, "\n");
}

/* Drawn by lot, since those who came before us may have given up, too. */
static int sync_up(struct task *t, struct agent *a, int64_t until)
{
	json_int_t id = strtol(random_hex(t, 3), NULL, 16);
	json_t *arguments = json_own(t, json_pack("{s:I}", "id", id));
	const char *text = request(t, "guest-sync-delimited", arguments);
	if (say(t, a, str(t, "%c%s", MARK, text), until) < 0)
		return -1;
	struct patience p = { .until = until, .bytes = AGENT_SYNC_LIMIT, .after_mark = true };
	const char *line;
	size_t n;
	while ((line = hear(t, a, &p, &n)) != NULL)
		if (agent_is_sync(line, id))
			break;
	return line ? 0 : -1;
}

/* What is there already cannot be the answer to what is about to be said. */
static bool has_unread(const struct agent *a)
{
	char byte;
	return a->taken < a->filled || recv(a->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static int refused(struct task *t, struct agent_call *c, const json_t *error)
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	c->ret_class = text_plain(t, class ? class : "", 64);
	return fail(t, INTERNAL_ERROR, text_plain(t, desc ? desc : "no reason given", 200));
}

/* Which command it was is said here, once for all the ways in which one can fail. */
static int failed(struct task *t, const char *command)
{
	if (t->code != INTERNAL_ERROR)
		return -1;
	const char *why = str(t, "guest agent: %s: %s", command, t->params[0]);
	task_forgive(t);
	return fail(t, INTERNAL_ERROR, why);
}

static int say_by(struct task *t, struct agent *a, struct agent_call *c, int64_t until)
{
	json_own(t, c->arguments);
	if ((a->adrift || has_unread(a)) && sync_up(t, a, until) < 0)
		return failed(t, c->command);
	a->adrift = true; /* until the answer was heard */
	if (say(t, a, request(t, c->command, c->arguments), until) < 0)
		return failed(t, c->command);
	return 0;
}

static int answered(struct task *t, struct agent *a, struct agent_call *c, const char *line,
		    size_t n)
{
	json_t *m = agent_read(t, line, n);
	if (!m)
		return failed(t, c->command);
	a->adrift = false;
	c->ret = json_object_get(m, "return");
	if (c->ret)
		return 1;
	refused(t, c, json_object_get(m, "error"));
	return failed(t, c->command);
}

/* ret_silent: there was nothing but silence. */
static int hear_by(struct task *t, struct agent *a, struct agent_call *c, int64_t until,
		   bool *ret_silent)
{
	struct patience p = { .until = until, .bytes = AGENT_REPLY_LIMIT };
	size_t n;
	const char *line = hear(t, a, &p, &n);
	*ret_silent = !line && p.silent;
	return line ? answered(t, a, c, line, n) : failed(t, c->command);
}

int agent_say(struct task *t, struct agent *a, struct agent_call *c)
{
	return say_by(t, a, c, clock_ms() + c->ms);
}

int agent_hear(struct task *t, struct agent *a, struct agent_call *c, int ms)
{
	bool silent;
	int heard = hear_by(t, a, c, clock_ms() + ms, &silent);
	if (heard > 0 || !silent || a->closed)
		return heard;
	task_forgive(t);
	return 0;
}

int agent_call(struct task *t, struct agent *a, struct agent_call *c)
{
	int64_t until = clock_ms() + c->ms;
	bool silent;
	if (say_by(t, a, c, until) < 0)
		return -1;
	if (hear_by(t, a, c, until, &silent) > 0)
		return 0;
	if (!silent || !c->mute)
		return -1;
	task_forgive(t);
	return 0;
}

int agent_tell(struct task *t, struct agent *a, const char *command, int ms)
{
	a->adrift = true;
	return say(t, a, request(t, command, NULL), clock_ms() + ms) < 0 ? failed(t, command) : 0;
}

int agent_descriptor(const struct agent *a)
{
	return a->fd;
}
