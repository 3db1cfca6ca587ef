// SPDX-License-Identifier: Apache-2.0
/* test_qmp.c -- calls and events of a monitor, against a peer that says what the test wants.
 *
 * A script is an array of texts: the first is said at once, each other one when a line was heard.
 * Ids are given out from 1 on, and 1 is the negotiation. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/qmp.h"

#include "check.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"
#define NEGOTIATED "{\"return\": {}, \"id\": 1}\r\n"
#define SCRIPT(...) ((const char *const[]){ __VA_ARGS__, NULL })

enum { OPEN_MS = 5000 };

struct peer {
	struct qmp *qmp;
	int fd; /* the peer's end */
	pthread_t actor;
	const char *const *script;
	char heard[8][512]; /* lines, read after peer_end() only */
	_Atomic int ended;
	_Atomic int events;
	char last[64]; /* event and its data's "x"; read after the end only */
};

static void on_event(void *arg, const char *name, const json_t *data)
{
	struct peer *p = arg;
	const char *x = json_string_value(json_object_get(data, "x"));
	snprintf(p->last, sizeof p->last, "%s %s", name, x ? x : "-");
	p->events++;
}

static void on_ended(void *arg, int closing)
{
	struct peer *p = arg;
	(void)closing;
	p->ended++;
}

static void say(struct peer *p, const char *text)
{
	CHECK(send(p->fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

static bool hear(struct peer *p, char *line, size_t size)
{
	size_t n = 0;
	for (char c; recv(p->fd, &c, 1, 0) == 1; line[n++] = c)
		if (c == '\n' || n == size - 1)
			return true;
	return false;
}

static void *act(void *arg)
{
	struct peer *p = arg;
	for (size_t i = 0; p->script[i]; i++) {
		if (i > 0 && !hear(p, p->heard[i - 1], sizeof p->heard[0]))
			break;
		say(p, p->script[i]);
	}
	return NULL;
}

static struct peer *peer_new(struct task *t, int ms, const char *const *script)
{
	struct peer *p = talloc_zero(t, struct peer);
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	p->fd = pair[1];
	p->script = script;
	pthread_create(&p->actor, NULL, act, p);
	p->qmp = qmp_open(t, pair[0], ms, false, (struct qmp_handler){ on_event, on_ended, p, "vm" });
	return p;
}

static void peer_end(struct peer *p)
{
	if (p->qmp)
		qmp_close(p->qmp);
	pthread_join(p->actor, NULL);
	close(p->fd);
	CHECK(p->ended == 1);
}

static void fails_with(struct task *t, int result, const char *error)
{
	CHECK(result < 0);
	if (!strstr(task_error(t), error))
		fprintf(stderr, "%s\n", task_error(t));
	CHECK(strstr(task_error(t), error));
	task_forgive(t);
}

/* ---- the tests ---- */

static void asks_and_is_answered(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS,
				  SCRIPT(GREETING, NEGOTIATED,
					 "{\"return\": \"nobody asked\", \"id\": 77}\r\n"
					 "{\"event\": \"STOP\", \"timestamp\": {}, \"data\": "
					 "{\"x\": \"y\"}}\r\n"
					 "{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n",
					 "{\"return\": 3, \"id\": 3}\r\n"));
	CHECK(p->qmp);
	struct qmp_call c = { .command = "query-status", .query = true };
	CHECK(qmp_call(t, p->qmp, &c) == 0);
	CHECK(streq(json_string_value(json_object_get(c.ret, "status")), "paused"));
	CHECK(qmp_do(t, p->qmp, "set", json_pack("{s:s}", "path", "a\"b\n")) == 0);
	peer_end(p);
	CHECK(p->events == 1 && streq(p->last, "STOP y"));
	CHECK(streq(p->heard[0], "{\"execute\":\"qmp_capabilities\",\"id\":1}"));
	CHECK(streq(p->heard[2],
		    "{\"execute\":\"set\",\"id\":3,\"arguments\":{\"path\":\"a\\\"b\\n\"}}"));
}

static void errors_are_told(struct task *t)
{
	struct peer *p = peer_new(
		t, OPEN_MS,
		SCRIPT(GREETING, NEGOTIATED,
		       "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no \\\"x\\\"\"}, "
		       "\"id\": 2}\n",
		       "{\"error\": {\"desc\": \"write: No space left on device\"}, \"id\": 3}\n",
		       "{\"error\": 5, \"id\": 4}\n", "{\"id\": 5}\n"));
	struct qmp_call c = { .command = "eject" };
	fails_with(t, qmp_call(t, p->qmp, &c), "INTERNAL_ERROR: QMP eject: no \"x\"");
	CHECK(streq(c.ret_class, "DeviceNotFound") && streq(c.ret_desc, "no \"x\""));
	fails_with(t, qmp_do(t, p->qmp, "x", NULL), "SR_BACKEND_FAILURE_44");
	fails_with(t, qmp_do(t, p->qmp, "x", NULL), "QMP x: no reason given");
	fails_with(t, qmp_do(t, p->qmp, "x", NULL), "QMP x: no reason given");
	peer_end(p);
}

/* Two ask at once, and are answered the wrong way round. */
static void *ask_aside(void *arg)
{
	struct peer *p = arg;
	struct task *t = task_new(NULL, "aside");
	struct qmp_call c = { .command = "first" };
	CHECK(qmp_call(t, p->qmp, &c) == 0 && json_integer_value(c.ret) == 2);
	talloc_free(t);
	return NULL;
}

static void answers_find_their_callers(struct task *t)
{
	struct peer *p =
		peer_new(t, OPEN_MS,
			 SCRIPT(GREETING, NEGOTIATED, "{\"event\": \"A\"}\n",
				"{\"return\": 3, \"id\": 3}\n{\"return\": 2, \"id\": 2}\n"));
	pthread_t other;
	pthread_create(&other, NULL, ask_aside, p);
	while (p->events == 0)
		usleep(1000);
	struct qmp_call c = { .command = "second" };
	CHECK(qmp_call(t, p->qmp, &c) == 0 && json_integer_value(c.ret) == 3);
	pthread_join(other, NULL);
	peer_end(p);
}

static void *say_slowly(void *arg)
{
	struct peer *p = arg;
	char line[512];
	const char *text = "{\"event\": \"A\"}\r\n{\"return\": [1], \"id\": 2}\r\n{\"event\"";
	CHECK(hear(p, line, sizeof line));
	for (; *text; text++) {
		char one[] = { *text, 0 };
		say(p, one);
		usleep(200);
	}
	return NULL;
}

static void lines_come_in_pieces(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED));
	pthread_t thread;
	struct qmp_call c = { .command = "x" };
	pthread_create(&thread, NULL, say_slowly, p);
	CHECK(qmp_call(t, p->qmp, &c) == 0 && json_array_size(c.ret) == 1);
	pthread_join(thread, NULL);
	peer_end(p);
	CHECK(p->events == 1 && streq(p->last, "A -"));
}

static void no_greeting(struct task *t)
{
	int64_t before = clock_ms();
	struct peer *p = peer_new(t, 100, SCRIPT("{\"event\": \"A\"}\n"));
	CHECK(!p->qmp && clock_ms() - before < 2000);
	fails_with(t, -1, "QMP greeting: no answer within 100 ms");
	peer_end(p);
}

/* What ends a connection, whatever else there is. */
static void garbage_ends_it(struct task *t)
{
	const char *const garbage[] = {
		"nonsense\n",
		"[]\n",
		"{}\n",
		"\n",
		"{\"event\": 5}\n",
		"{\"return\": {}}\n",
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n",
		"{\"return\": {}, \"id\": \"2\"}\n",
		"{\"return\": {}, \"id\": 0}\n",
		"{\"event\": \"A\xff\"}\n",
		"{\"event\": \"A\", \"event\": \"B\"}\n",
	};
	for (size_t i = 0; i < COUNT(garbage); i++) {
		struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED, garbage[i]));
		fails_with(t, qmp_do(t, p->qmp, "x", NULL), "INTERNAL_ERROR: what the VM's QEMU said");
		fails_with(t, qmp_do(t, p->qmp, "x", NULL), "INTERNAL_ERROR: what the VM's QEMU said");
		peer_end(p);
	}
}

static void *hang_up(void *arg)
{
	struct peer *p = arg;
	usleep(50000);
	shutdown(p->fd, SHUT_RDWR);
	return NULL;
}

static void the_end_wakes_who_waits(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED));
	pthread_t thread;
	int64_t before = clock_ms();
	pthread_create(&thread, NULL, hang_up, p);
	fails_with(t, qmp_do(t, p->qmp, "x", NULL), "VM_HALTED: vm");
	fails_with(t, qmp_do(t, p->qmp, "x", NULL), "VM_HALTED: vm");
	CHECK(clock_ms() - before < 2000);
	pthread_join(thread, NULL);
	peer_end(p);
}

/* A command's outcome is waited for, a question's need not be. */
static void cancel(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS,
				  SCRIPT(GREETING, NEGOTIATED, "{\"return\": {}, \"id\": 2}\n", "",
					 "{\"return\": \"too late\", \"id\": 3}\n"
					 "{\"return\": {}, \"id\": 4}\n"));
	struct task *user = task_new(t, "user");
	struct qmp_call c = { .command = "query-status", .query = true };
	user->cancellable = true;
	task_interrupt(user);
	user->deadline_ms = clock_ms() - 1;
	CHECK(qmp_do(user, p->qmp, "transaction", NULL) == 0);
	fails_with(user, qmp_call(user, p->qmp, &c), "TASK_CANCELLED");
	CHECK(qmp_do(user, p->qmp, "cont", NULL) == 0);
	peer_end(p);
}

static void *receive_descriptor(void *arg)
{
	struct peer *p = arg;
	char text[256], control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec v = { text, sizeof text };
	struct msghdr m = { .msg_iov = &v,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof control };
	static int got;
	CHECK(recvmsg(p->fd, &m, 0) > 0);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	CHECK(h && h->cmsg_type == SCM_RIGHTS && h->cmsg_len == CMSG_LEN(sizeof got));
	memcpy(&got, CMSG_DATA(h), sizeof got);
	say(p, "{\"return\": {}, \"id\": 2}\n");
	return &got;
}

static void descriptors_travel(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED));
	struct stat a, b;
	int pipefd[2];
	void *got;
	pthread_t thread;
	CHECK(pipe(pipefd) == 0);
	pthread_create(&thread, NULL, receive_descriptor, p);
	struct qmp_call c = { .command = "getfd", .fd = pipefd[0] };
	CHECK(qmp_call(t, p->qmp, &c) == 0);
	pthread_join(thread, &got);
	CHECK(fstat(*(int *)got, &a) == 0 && fstat(pipefd[0], &b) == 0 && a.st_ino == b.st_ino);
	close(*(int *)got);
	close(pipefd[0]);
	close(pipefd[1]);
	peer_end(p);
}

/* A QEMU that reads nothing any more stops nobody. */
static void nobody_reads(struct task *t)
{
	struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED));
	char *big = talloc_zero_array(t, char, 100001);
	memset(big, 'x', 100000);
	bool full = false;
	for (int i = 0; i < 100 && !full; i++) {
		struct qmp_call c = { .command = "x",
				      .query = true,
				      .arguments = json_pack("{s:s}", "x", big) };
		t->deadline_ms = clock_ms() + 20;
		CHECK(qmp_call(t, p->qmp, &c) < 0);
		full = strstr(task_error(t), "takes no more") || strstr(task_error(t), "ended");
		task_forgive(t);
	}
	t->deadline_ms = 0;
	CHECK(full);
	peer_end(p);
}

/* ---- lines ---- */

static int count(void *arg, json_t *m)
{
	CHECK(json_is_object(m));
	++*(int *)arg;
	return 0;
}

static int feed(struct qmp_lines *l, const char *text, int *lines)
{
	return qmp_feed(l, text, strlen(text), count, lines);
}

static char *nested(struct task *t, size_t depth)
{
	char *s = talloc_zero_array(t, char, 2 * depth + 8), *p = s;
	p += sprintf(p, "{\"a\":");
	memset(p, '[', depth - 1);
	memset(p + depth - 1, ']', depth - 1);
	memcpy(p + 2 * (depth - 1), "}\n", 3);
	return s;
}

static void limits(struct task *t)
{
	struct qmp_lines l = { 0 };
	int n = 0;
	CHECK(feed(&l, "{}\n{\"a\":1}\r\n{", &n) == 0 && n == 2);
	CHECK(feed(&l, "", &n) == 0 && feed(&l, "}\n", &n) == 0 && n == 3);
	CHECK(feed(&l, nested(t, QMP_DEPTH_LIMIT), &n) == 0 && n == 4);
	CHECK(feed(&l, nested(t, QMP_DEPTH_LIMIT + 1), &n) < 0);
	free(l.unread.text);

	enum { PIECE = 1 << 20 };
	char *piece = talloc_array(t, char, PIECE);
	memset(piece, ' ', PIECE);
	l = (struct qmp_lines){ .awaited = true };
	for (size_t i = 0; i < QMP_LINE_LIMIT / PIECE; i++)
		CHECK(qmp_feed(&l, piece, PIECE, count, &n) == 0);
	CHECK(qmp_feed(&l, "\n", 1, count, &n) < 0);
	CHECK(l.unread.size <= 2 * QMP_LINE_LIMIT);
	free(l.unread.text);

	/* Nobody waits for an answer: what is too long for an event is passed over, and nothing else. */
	l = (struct qmp_lines){ 0 };
	n = 0;
	for (size_t i = 0; i < 2 * QMP_LINE_LIMIT / PIECE; i++) {
		CHECK(qmp_feed(&l, piece, PIECE, count, &n) == 0);
		CHECK(l.unread.size <= 2 * PIECE + 64);
	}
	CHECK(feed(&l, " x\n{}\n{\"a\"", &n) == 0 && n == 1);
	CHECK(feed(&l, ":1}\n", &n) == 0 && n == 2);
	free(l.unread.text);

	/* As many values as are no answer of a QEMU: none is made. */
	l = (struct qmp_lines){ .awaited = true };
	char *many = talloc_zero_array(t, char, 3 * QMP_VALUES_LIMIT + 16), *p = many;
	p += sprintf(p, "{\"a\":[");
	for (int i = 0; i < QMP_VALUES_LIMIT; i++)
		p += sprintf(p, "[],");
	sprintf(p, "0]}\n");
	CHECK(feed(&l, many, &n) < 0);
	free(l.unread.text);
}

/* Who says more than any QEMU does is read more slowly; a close does not wait for that. */
static void keeps_pace(struct task *t)
{
	static const char event[] = "{\"event\":\"RESET\"}\n";
	enum { PIECE = 16384 / (sizeof event - 1), MOST = QMP_EVENTS_LIMIT + 2 * PIECE };
	struct peer *p = peer_new(t, OPEN_MS, SCRIPT(GREETING, NEGOTIATED));
	CHECK(p->qmp);
	char *piece = talloc_strdup(t, "");
	for (int i = 0; i < PIECE; i++)
		piece = talloc_strdup_append(piece, event);
	fcntl(p->fd, F_SETFL, O_NONBLOCK);
	ssize_t all = (ssize_t)strlen(piece);
	int said = 0;
	for (ssize_t n = all; n == all; said += PIECE)
		n = send(p->fd, piece, (size_t)all, MSG_NOSIGNAL);
	int64_t begin = clock_ms();
	while (clock_ms() - begin < 5000 && p->events < QMP_EVENTS_LIMIT)
		poll(NULL, 0, 10);
	poll(NULL, 0, 300);
	CHECK(said > MOST && p->events >= QMP_EVENTS_LIMIT && p->events <= MOST);
	begin = clock_ms();
	peer_end(p);
	CHECK(clock_ms() - begin < 1000);
}

int main(void)
{
	void (*const tests[])(struct task *) = {
		asks_and_is_answered,
		errors_are_told,
		answers_find_their_callers,
		lines_come_in_pieces,
		no_greeting,
		garbage_ends_it,
		the_end_wakes_who_waits,
		cancel,
		descriptors_travel,
		nobody_reads,
		limits,
		keeps_pace,
	};
	for (size_t i = 0; i < COUNT(tests); i++) {
		struct task *t = task_new(NULL, "test");
		tests[i](t);
		CHECK(!t->code);
		talloc_free(t);
	}
	return 0;
}
