// SPDX-License-Identifier: Apache-2.0
/* test_agent.c -- conversations with agents of every kind, most of them bad ones.
 *
 * A script is an array of texts: the first is said at once, each other one when a line was heard.
 * $ in a text is the number of the last sync that was heard. */
#include "vmm/agent.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

#define SCRIPT(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define PARSE_ERROR "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n"
#define SYNCED PARSE_ERROR "\xff{\"return\": $}\n"
#define INFO "{\"return\": {\"version\": \"7.2.0\"}}\n"

struct peer {
	struct agent *agent;
	int fd;
	pthread_t actor;
	const char *const *script;
	bool leaves; /* closes the connection when the script is over */
	long long id;
	char heard[8][256]; /* read after peer_end() only */
};

static void say(struct peer *p, const char *text)
{
	const char *dollar = strchr(text, '$');
	char line[4096];
	int n = dollar ? snprintf(line, sizeof line, "%.*s%lld%s", (int)(dollar - text), text,
				  p->id, dollar + 1)
		       : snprintf(line, sizeof line, "%s", text);
	CHECK(n >= 0 && n < (int)sizeof line);
	CHECK(send(p->fd, line, (size_t)n, MSG_NOSIGNAL) == n);
}

static bool hear(struct peer *p, char *line, size_t size)
{
	size_t n = 0;
	for (char c; n < size - 1 && recv(p->fd, &c, 1, 0) == 1; line[n++] = c)
		if (c == '\n') {
			const char *id = strstr(line, "\"id\":");
			p->id = id ? strtoll(id + 5, NULL, 10) : p->id;
			return true;
		}
	return false;
}

static void *act(void *arg)
{
	struct peer *p = arg;
	for (size_t i = 0; p->script[i]; i++) {
		if (i > 0 && !hear(p, p->heard[i - 1], sizeof p->heard[0]))
			return NULL;
		say(p, p->script[i]);
	}
	if (p->leaves)
		shutdown(p->fd, SHUT_RDWR);
	return NULL;
}

static struct peer *peer_new(struct task *t, bool leaves, const char *const *script)
{
	struct peer *p = talloc_zero(t, struct peer);
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	p->fd = pair[1];
	p->script = script;
	p->leaves = leaves;
	p->agent = agent_new(t, pair[0]);
	pthread_create(&p->actor, NULL, act, p);
	return p;
}

static void peer_end(struct peer *p)
{
	talloc_free(p->agent);
	pthread_join(p->actor, NULL);
	close(p->fd);
}

static void fails_with(struct task *t, struct agent *a, struct agent_call c, const char *error)
{
	int64_t before = clock_ms();
	CHECK(agent_call(t, a, &c) < 0);
	CHECK(clock_ms() - before < c.ms + 2000);
	if (!strstr(task_error(t), error))
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(strstr(task_error(t), error));
	task_forgive(t);
}

static const struct agent_call info = { .command = "guest-info", .ms = 5000 };
static const struct agent_call hasty = { .command = "guest-info", .ms = 300 };

/* ---- good ones ---- */

static const char *version(struct task *t, struct agent *a)
{
	struct agent_call c = info;
	if (agent_call(t, a, &c) < 0)
		fprintf(stderr, "%s\n", task_error(t));
	const char *s = json_string_value(json_object_get(c.ret, "version"));
	return s ? s : "";
}

static void is_asked(struct task *t)
{
	struct peer *p = peer_new(t, false, SCRIPT("", SYNCED, INFO, "{\"return\": 5}\n"));
	CHECK(streq(version(t, p->agent), "7.2.0"));
	struct agent_call c = { .command = "x",
				.ms = 5000,
				.arguments = json_pack("{s:i}", "a", 1) };
	CHECK(agent_call(t, p->agent, &c) == 0 && json_integer_value(c.ret) == 5);
	peer_end(p);
	CHECK(p->heard[0][0] == '\xff' && strstr(p->heard[0], "\"guest-sync-delimited\""));
	CHECK(streq(p->heard[1], "{\"execute\":\"guest-info\"}"));
	CHECK(streq(p->heard[2], "{\"execute\":\"x\",\"arguments\":{\"a\":1}}"));
}

/* It says no, and goes on. */
static void refuses(struct task *t)
{
	struct peer *p = peer_new(t, false,
				  SCRIPT("", SYNCED,
					 "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": "
					 "\"not \\u001b[1m here\"}}\n",
					 "{\"error\": 5}\n", INFO));
	struct agent_call c = info;
	CHECK(agent_call(t, p->agent, &c) < 0);
	CHECK(streq(c.ret_class, "CommandNotFound"));
	CHECK(streq(task_error(t), "INTERNAL_ERROR: guest agent: guest-info: not [1m here"));
	task_forgive(t);
	fails_with(t, p->agent, info, "no reason given");
	CHECK(streq(version(t, p->agent), "7.2.0"));
	peer_end(p);
}

/* Marked replies of those who gave up before, and half a line of one. */
static void old_replies(struct task *t)
{
	struct peer *p =
		peer_new(t, false,
			 SCRIPT("{\"return\": {\"version\": \"old\"}}\n"
				"\xff{\"return\": 12345678901}\n{\"return\": {}}\n",
				"{\"return\": {\"vers\xff{\"return\": 1}\n\xff{\"ret\xff\xff"
				"{\"return\": $}\r\n",
				INFO));
	CHECK(streq(version(t, p->agent), "7.2.0"));
	peer_end(p);
}

/* The call is given up; its reply comes before that of the next sync. */
static void late_reply(struct task *t)
{
	struct peer *p = peer_new(t, false,
				  SCRIPT("", SYNCED, "",
					 "{\"return\": {\"version\": \"late\"}}\n" SYNCED, INFO));
	fails_with(t, p->agent, hasty, "guest-info: no answer in time");
	CHECK(streq(version(t, p->agent), "7.2.0"));
	peer_end(p);
}

/* The second of two replies is not taken for the next command's. */
static void replies_twice(struct task *t)
{
	struct peer *p =
		peer_new(t, false,
			 SCRIPT("", SYNCED, INFO "{\"return\": {\"version\": \"again\"}}\n", SYNCED,
				INFO));
	CHECK(streq(version(t, p->agent), "7.2.0"));
	CHECK(streq(version(t, p->agent), "7.2.0"));
	peer_end(p);
	CHECK(p->heard[2][0] == '\xff');
}

/* Shutting down is not answered; a no is. */
static void is_mute(struct task *t)
{
	struct agent_call c = { .command = "guest-shutdown", .ms = 1000, .mute = true };
	struct peer *p = peer_new(t, false, SCRIPT("", SYNCED, ""));
	CHECK(agent_call(t, p->agent, &c) == 0 && !c.ret);
	peer_end(p);
	p = peer_new(t, true, SCRIPT("", SYNCED, ""));
	CHECK(agent_call(t, p->agent, &c) == 0);
	peer_end(p);
	p = peer_new(t, false, SCRIPT("", SYNCED, "{\"error\": {\"desc\": \"no\"}}\n"));
	fails_with(t, p->agent, c, "guest-shutdown: no");
	peer_end(p);
	p = peer_new(t, true, SCRIPT(""));
	fails_with(t, p->agent, c, "closed");
	peer_end(p);
	p = peer_new(t, false, SCRIPT("", ""));
	fails_with(t, p->agent, c, "no answer in time");
	peer_end(p);
}

/* ---- bad ones ---- */

static void bad_replies(struct task *t)
{
	static const struct {
		const char *says, *error;
		bool leaves;
	} all[] = {
		{ "", "no answer in time" },
		{ "", "its port was closed", true },
		{ "{\"return\": {", "its port was closed", true },
		{ "{\"return\": {", "no answer in time" },
		{ "garbage\n", "makes no sense" },
		{ "\x01\x02\x03\n", "makes no sense" },
		{ "[]\n", "makes no sense" },
		{ "{\"return\": \"\xfe\xfe\"}\n", "makes no sense" },
		{ "{\"return\": \"\xed\xa0\x80\"}\n", "makes no sense" },
		{ "{\"return\": \"\\u0000\"}\n", "makes no sense" },
		{ "{\"return\": {}} {}\n", "makes no sense" },
		{ "{\"return\": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}\n", "makes no sense" },
		{ "{}\n", "no reason given" },
	};
	for (size_t i = 0; i < COUNT(all); i++) {
		struct peer *p = peer_new(t, all[i].leaves, SCRIPT("", SYNCED, all[i].says));
		bool waits = strstr(all[i].error, "in time");
		fails_with(t, p->agent, waits ? hasty : info, all[i].error);
		peer_end(p);
	}
	struct peer *p = peer_new(t, false, SCRIPT("", "\xff{\"return\": 1}\n"));
	fails_with(t, p->agent, hasty, "no answer in time");
	peer_end(p);
}

/* ---- endless ones ---- */

struct flood {
	int fd;
	pthread_t actor;
	const char *head, *piece;
	size_t sent;
};

static void *pour(void *arg)
{
	struct flood *f = arg;
	size_t n = strlen(f->piece);
	char chunk[4096];
	for (char c = 0; c != '\n';)
		CHECK(recv(f->fd, &c, 1, 0) == 1);
	CHECK(send(f->fd, f->head, strlen(f->head), MSG_NOSIGNAL) >= 0);
	for (size_t i = 0; i < sizeof chunk; i++)
		chunk[i] = f->piece[i % n];
	for (ssize_t sent; (sent = send(f->fd, chunk, sizeof chunk / n * n, MSG_NOSIGNAL)) > 0;)
		f->sent += (size_t)sent;
	return NULL;
}

/* Of what never ends a little is read, and nothing is kept. */
static void endless(struct task *t)
{
	static const struct {
		const char *head, *piece, *error;
	} all[] = {
		{ "", "x", "does not end" },
		{ "\xff", "x", "does not end" },
		{ "", "\xff", "does not end" },
		{ "", "\n", "does not end" },
		{ "", "\xff{\"return\": 1}\n", "does not end" },
		{ "\xff{\"return\": [", "{},", "does not end" },
	};
	for (size_t i = 0; i < COUNT(all); i++) {
		struct flood f = { .head = all[i].head, .piece = all[i].piece };
		int pair[2];
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
		f.fd = pair[1];
		struct agent *a = agent_new(t, pair[0]);
		pthread_create(&f.actor, NULL, pour, &f);
		fails_with(t, a, info, all[i].error);
		talloc_free(a);
		pthread_join(f.actor, NULL);
		close(f.fd);
		CHECK(f.sent < AGENT_SYNC_LIMIT + (2 << 20));
	}
}

/* A million network interfaces; and as many as fit the limit of bytes. */
static void too_many_values(struct task *t)
{
	struct agent_lines l = { 0 };
	const char *line, *one = "{\"name\":\"\"},", *head = "{\"return\":[";
	size_t n, kept = 0;
	ssize_t used = agent_feed(&l, head, strlen(head), false, &line, &n);
	for (int i = 0; i < 1000000 && used >= 0; i++, kept += (size_t)(used > 0 ? used : 0))
		used = agent_feed(&l, one, strlen(one), false, &line, &n);
	CHECK(used < 0 && kept <= AGENT_REPLY_LIMIT && l.line.size <= 2 * AGENT_REPLY_LIMIT + 64);
	free(l.line.text);

	char *many = talloc_strdup(t, one);
	while (strlen(many) < AGENT_REPLY_LIMIT / 2)
		many = str(t, "%s%s", many, many);
	many = str(t, "%s%s{}]}", head, many);
	CHECK(!agent_read(t, many, strlen(many)));
	CHECK(strstr(task_error(t), "holds too much"));
	task_forgive(t);
	CHECK(strlen(many) / strlen(one) > AGENT_VALUES_LIMIT);

	for (int depth = AGENT_DEPTH_LIMIT; depth <= AGENT_DEPTH_LIMIT + 1; depth++) {
		char *deep = talloc_strdup(t, "{\"a\":");
		for (int i = 1; i < depth; i++)
			deep = talloc_strdup_append(deep, "[");
		for (int i = 1; i < depth; i++)
			deep = talloc_strdup_append(deep, "]");
		deep = talloc_strdup_append(deep, "}");
		CHECK((agent_read(t, deep, strlen(deep)) != NULL) == (depth == AGENT_DEPTH_LIMIT));
		task_forgive(t);
	}
}

/* ---- lines ---- */

static void feeds(void)
{
	static const char text[] = "a\n\r\n \nb\xff\x63\n\xff\n\xff\x64\r\ne\n";
	static const char *const any[] = { "a", "c", "d\r", "e" }, *const marked[] = { "c", "d\r" };
	for (size_t piece = 1; piece < sizeof text; piece++)
		for (int after_mark = 0; after_mark < 2; after_mark++) {
			struct agent_lines l = { 0 };
			size_t found = 0;
			for (size_t at = 0, end = 0; end < sizeof text - 1;) {
				end = at + piece < sizeof text - 1 ? at + piece : sizeof text - 1;
				while (at < end) {
					const char *line;
					size_t n;
					at += (size_t)agent_feed(&l, text + at, end - at,
								 after_mark, &line, &n);
					if (!line)
						continue;
					CHECK(n == strlen(line));
					CHECK(streq(line, (after_mark ? marked : any)[found++]));
				}
			}
			CHECK(found == (after_mark ? COUNT(marked) : COUNT(any)));
			free(l.line.text);
		}
}

static void syncs(void)
{
	CHECK(agent_is_sync("{\"return\": 77}", 77) && agent_is_sync(" {\"return\":77} \r", 77));
	static const char *const others[] = {
		"{\"return\": 7}",
		"{\"return\": 77",
		"{\"return\": \"77\"}",
		"{\"return\": 77} x",
		"{\"retur\": 77}",
		"",
		"77",
		"{\"return\": 77.5}",
		"{\"return\": {}}",
	};
	for (size_t i = 0; i < COUNT(others); i++)
		CHECK(!agent_is_sync(others[i], 77));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	feeds();
	syncs();
	is_asked(t);
	refuses(t);
	old_replies(t);
	late_reply(t);
	replies_twice(t);
	is_mute(t);
	bad_replies(t);
	endless(t);
	too_many_values(t);
	talloc_free(t);
	return 0;
}
