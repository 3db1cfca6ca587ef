// SPDX-License-Identifier: Apache-2.0
#include "xe/thin_client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/frame.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "xe/connect.h"
#include "xe/http_client.h"
#include "xe/options.h"
#include "xe/say.h"

enum {
	CHUNK = 256 << 10,
	LINE_LIMIT = 64 << 10,
};

struct client {
	struct task *task;
	const struct options *options;
	int fd;
	char *debug; /* what --debug-on-fail shows */
	bool done;
	int status;
};

/* ---- the beginning ---- */

static char *body_text(struct task *t, const struct options *o)
{
	char *body = talloc_strdup(t, "");
	for (size_t i = 0; i < o->args.n; i++) {
		if (strchr(o->args.v[i], '\n'))
			return fail_ptr(t, INTERNAL_ERROR,
					"an argument with a line break cannot be sent to the "
					"server");
		body = talloc_asprintf_append(body, "%s\n", o->args.v[i]);
	}
	if (o->password)
		body = talloc_asprintf_append(body, "username=%s\npassword=%s\n",
					      o->user ? o->user : "root", o->password);
	return body;
}

/* Notes are for people.  A script that reads what xe says, `2>&1`, is to find there what it asked for. */
static const char *wants_notes(const struct options *o)
{
	return o->verbose || isatty(STDERR_FILENO) ? FRAME_NOTES ": true\r\n" : "";
}

static int send_request(struct task *t, int fd, const struct options *o, const char *body)
{
	const char *head = str(t,
			       "POST /cli HTTP/1.0\r\n"
			       "User-agent: xe-cli/Unix/0.2\r\n"
			       "originator: cli\r\n"
			       "%s"
			       "content-length: %zu\r\n\r\n",
			       wants_notes(o), strlen(body));
	if (io_write(t, fd, head, strlen(head), delay_ms(DELAY_XE_ANSWER)) < 0)
		return -1;
	return io_write(t, fd, body, strlen(body), delay_ms(DELAY_XE_ANSWER));
}

/* An HTTP answer instead of the greeting: the server's reason is its last line. */
static int refused(struct task *t, int fd, const char *begin, size_t n)
{
	char *text = talloc_zero_array(t, char, CHUNK);
	memcpy(text, begin, n);
	if (io_read(t, fd, text + n, CHUNK - n - 1, delay_ms(DELAY_XE_ANSWER)) < 0)
		return -1;
	const char *reason = strstr(text, "\r\n\r\n");
	if (!reason || !starts_with(text, "HTTP/"))
		return fail(t, INTERNAL_ERROR, "What answers there is no server for xe.");
	return fail(t, INTERNAL_ERROR, str(t, "The server refused: %s", reason + 4));
}

static int greet(struct task *t, int fd)
{
	unsigned char ours[FRAME_GREETING];
	char theirs[FRAME_GREETING];
	frame_greeting(ours);
	ssize_t n = io_read(t, fd, theirs, sizeof theirs, delay_ms(DELAY_XE_ANSWER));
	if (n < 0)
		return -1;
	if (n == 0)
		return fail(t, INTERNAL_ERROR, "The server closed the connection; it may be busy.");
	/* The minor version tells of additions only. */
	if (n < (ssize_t)sizeof theirs || memcmp(theirs, ours, sizeof ours - 4) != 0)
		return refused(t, fd, theirs, (size_t)n);
	return io_write(t, fd, ours, sizeof ours, delay_ms(DELAY_XE_ANSWER));
}

/* ---- answering ---- */

static int respond(struct client *c, enum frame_tag tag)
{
	return frame_send(c->task, c->fd, &(struct frame){ .kind = FRAME_RESPONSE, .tag = tag });
}

static int send_chunk(struct client *c, const char *bytes, size_t n)
{
	struct frame f = { .kind = FRAME_BLOB, .tag = FRAME_CHUNK, .number = (int32_t)n };
	if (frame_send(c->task, c->fd, &f) < 0)
		return -1;
	return io_write(c->task, c->fd, bytes, n, -1);
}

static int send_end(struct client *c)
{
	return frame_send(c->task, c->fd, &(struct frame){ .kind = FRAME_BLOB, .tag = FRAME_END });
}

/* Tells the user what has failed here, and the server that it has. */
static int failed(struct client *c)
{
	if (c->task->code == TASK_CANCELLED)
		return -1;
	const char *why = str(c->task, "Error: %s", what_failed(c->task));
	task_forgive(c->task);
	if (say(c->task, STDERR_FILENO, why) < 0)
		return -1;
	return respond(c, FRAME_FAILED);
}

/* The server is not trusted with more of our files than those the user typed, by themselves or
 * behind an equals sign. */
static bool is_named(const struct client *c, const char *file)
{
	const struct list *args = &c->options->args;
	for (size_t i = 0; i < args->n; i++) {
		const char *equals = strchr(args->v[i], '=');
		if (streq(args->v[i], file) || (equals && streq(equals + 1, file)))
			return true;
	}
	return false;
}

static bool is_beneath_here(const char *file)
{
	char path[PATH_MAX], here[PATH_MAX];
	if (!realpath(file, path) || !getcwd(here, sizeof here))
		return false;
	size_t n = strlen(here);
	return strncmp(path, here, n) == 0 && (path[n] == '/' || (n == 1 && path[1]));
}

static int forbidden(struct client *c, const char *file)
{
	return fail(c->task, INTERNAL_ERROR,
		    str(c->task, "the server asked for %s, which is not on the command line",
			file));
}

/* ---- the commands ---- */

static int do_print(struct client *c, const struct frame *f)
{
	return say(c->task, f->tag == FRAME_PRINT ? STDOUT_FILENO : STDERR_FILENO, f->text);
}

static int do_debug(struct client *c, const struct frame *f)
{
	if (c->options->debug)
		return say(c->task, STDERR_FILENO, f->text);
	if (c->options->debug_on_fail)
		c->debug = talloc_asprintf_append(c->debug, "%s\n", f->text);
	return 0;
}

static int do_error(struct client *c, const struct frame *f)
{
	const char *params = list_join(c->task, &f->params, ", ");
	return say(c->task, STDERR_FILENO,
		   str(c->task, "Error code: %s\nError parameters: %s", f->text, params));
}

static int do_exit(struct client *c, const struct frame *f)
{
	c->done = true;
	c->status = f->number == 0 ? 0 : f->number > 0 && f->number < 126 ? (int)f->number : 1;
	return 0;
}

static int send_file(struct client *c, int file)
{
	char *piece = talloc_array(c->task, char, CHUNK);
	ssize_t got;
	while ((got = read(file, piece, CHUNK)) > 0)
		if (send_chunk(c, piece, (size_t)got) < 0)
			return -1;
	talloc_free(piece);
	/* In the middle of a blob there is no way to say so but to leave. */
	return got < 0 ? task_fail_errno(c->task, errno, "read") : send_end(c);
}

static int do_load(struct client *c, const struct frame *f)
{
	struct stat st;
	if (!is_named(c, f->text) && !is_beneath_here(f->text)) {
		forbidden(c, f->text);
		return failed(c);
	}
	FD_SCOPE int file = open(f->text, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &st) < 0 || S_ISDIR(st.st_mode)) {
		task_fail_errno(c->task, file < 0 ? errno : EISDIR, f->text);
		return failed(c);
	}
	return respond(c, FRAME_OK) < 0 ? -1 : send_file(c, file);
}

/* A line from standard input, byte by byte: what is behind it is not ours to take. */
static int do_prompt(struct client *c, const struct frame *f)
{
	(void)f;
	char *line = talloc_array(c->task, char, LINE_LIMIT);
	size_t n = 0;
	while (n < LINE_LIMIT) {
		ssize_t got = io_read(c->task, STDIN_FILENO, line + n, 1, -1);
		if (got < 0)
			return -1;
		if (got == 0 && n == 0)
			return fail(c->task, INTERNAL_ERROR,
				    "Standard input has ended: nobody can answer. Where no "
				    "question is "
				    "wanted there is --force.");
		if (got == 0 || line[n] == '\n')
			break;
		n++;
	}
	return send_chunk(c, line, n) < 0 ? -1 : send_end(c);
}

static int do_transfer(struct client *c, const struct frame *f)
{
	struct carrier carrier = { c->task, c->options, c->fd,
				   clock_ms() + delay_ms(DELAY_XE_BUSY) };
	int status;
	if (f->tag == FRAME_HTTP_CONNECT)
		status = carry_terminal(&carrier, f->path);
	else if (*f->text && !is_named(c, f->text))
		status = forbidden(c, f->text);
	else if (f->tag == FRAME_HTTP_GET)
		status = carry_get(&carrier, f->text, f->path);
	else
		status = carry_put(&carrier, f->text, f->path);
	return status < 0 ? failed(c) : respond(c, FRAME_OK);
}

static const struct {
	enum frame_tag tag;
	int (*run)(struct client *, const struct frame *);
} commands[] = {
	{ FRAME_PRINT, do_print },       { FRAME_PRINT_STDERR, do_print },
	{ FRAME_DEBUG, do_debug },       { FRAME_ERROR, do_error },
	{ FRAME_EXIT, do_exit },         { FRAME_LOAD, do_load },
	{ FRAME_PROMPT, do_prompt },     { FRAME_HTTP_GET, do_transfer },
	{ FRAME_HTTP_PUT, do_transfer }, { FRAME_HTTP_CONNECT, do_transfer },
};

static int obey(struct client *c, const struct frame *f)
{
	for (size_t i = 0; f->kind == FRAME_COMMAND && i < COUNT(commands); i++)
		if (commands[i].tag == f->tag)
			return commands[i].run(c, f);
	return fail(c->task, INTERNAL_ERROR, "the server sent what no server sends");
}

static int follow(struct client *c)
{
	while (!c->done) {
		struct frame f;
		void *scope = talloc_new(c->task);
		int got = frame_receive(c->task, scope, c->fd, FRAME_LIMIT, &f);
		if (got == 0)
			fail(c->task, INTERNAL_ERROR,
			     "The connection to the server was lost before the command had ended.");
		if (got <= 0 || obey(c, &f) < 0)
			return -1;
		talloc_free(scope);
	}
	return 0;
}

int thin_client(struct task *t, const struct options *o, int *ret_status)
{
	const char *body = body_text(t, o);
	FD_SCOPE int fd = body ? server_connect(t, o) : -1;
	if (fd < 0 || send_request(t, fd, o, body) < 0 || greet(t, fd) < 0)
		return -1;
	struct client c = { .task = t, .options = o, .fd = fd, .debug = talloc_strdup(t, "") };
	int status = follow(&c);
	if ((status < 0 || c.status) && *c.debug)
		io_write(t, STDERR_FILENO, c.debug, strlen(c.debug), -1);
	*ret_status = c.status;
	return status;
}
