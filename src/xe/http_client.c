// SPDX-License-Identifier: Apache-2.0
#include "xe/http_client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/frame.h"
#include "base/io.h"
#include "base/relay.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"
#include "xe/connect.h"
#include "xe/options.h"
#include "xe/progress.h"
#include "xe/say.h"

enum {
	HEAD_LIMIT = 16 << 10,
	TEXT_LIMIT = 4 << 10,
	REDIRECTS = 5,
	PIECE = 256 << 10,
	BLOCK = 4 << 10, /* the smallest hole */
	LEAVE = 0x1d,    /* Ctrl-] */
	CHUNK_HEAD = 10, /* "00040000\r\n" */
	CHUNK_END = 2,   /* "\r\n" */
};

/* Waits for the descriptor as long as it takes, and tells the server that we are at it. */
static int wait_for(struct carrier *c, int fd, short events)
{
	for (;;) {
		long long left = c->next_wait - clock_ms();
		int ready = task_wait(c->task, fd, events, left > 0 ? (int)left : 0);
		if (ready)
			return ready < 0 ? -1 : 0;
		struct frame wait = { .kind = FRAME_RESPONSE, .tag = FRAME_WAIT };
		if (frame_send(c->task, c->thin_fd, &wait) < 0)
			return -1;
		c->next_wait = clock_ms() + delay_ms(DELAY_XE_BUSY);
	}
}

/* n bytes, fewer at the end only; -1 on failure. */
static ssize_t read_piece(struct carrier *c, int fd, char *to, size_t n)
{
	size_t done = 0;
	while (done < n) {
		if (wait_for(c, fd, POLLIN) < 0)
			return -1;
		ssize_t got = read(fd, to + done, n - done);
		if (got < 0 && errno != EINTR && errno != EAGAIN)
			return task_fail_errno(c->task, errno, "read");
		if (got == 0)
			break;
		done += got > 0 ? (size_t)got : 0;
	}
	return (ssize_t)done;
}

static int write_piece(struct carrier *c, int fd, const char *from, size_t n)
{
	for (size_t done = 0; done < n;) {
		if (wait_for(c, fd, POLLOUT) < 0)
			return -1;
		ssize_t put = write(fd, from + done, n - done);
		if (put < 0 && errno != EINTR && errno != EAGAIN)
			return task_fail_errno(c->task, errno, "write");
		done += put > 0 ? (size_t)put : 0;
	}
	return 0;
}

/* ---- requests ---- */

/* What is behind the head must stay in the socket, so the head is read byte by byte. */
static int read_head(struct carrier *c, int fd, struct answer *ret)
{
	char *head = talloc_array(c->task, char, HEAD_LIMIT + 1);
	size_t n = 0;
	while (n < HEAD_LIMIT) {
		ssize_t got = read_piece(c, fd, head + n, 1);
		if (got <= 0)
			break;
		head[++n] = 0;
		if (ends_with(head + (n < 4 ? 0 : n - 4), "\r\n\r\n"))
			break;
	}
	head[n] = 0;
	bool good = n > 4 && ends_with(head, "\r\n\r\n") && answer_parse(c->task, head, ret);
	talloc_free(head);
	if (good)
		return 0;
	return c->task->code ? -1 : fail(c->task, INTERNAL_ERROR, "the server gave no answer");
}

/* Text to the end of the connection, for an error message; "" when there is none.  Byte by byte: one that
 * was reset behind the text is no reason to lose it. */
static char *read_text(struct carrier *c, int fd)
{
	char *text = talloc_array(c->task, char, TEXT_LIMIT + 1);
	size_t n = 0;
	ssize_t got = 1;
	while (n < TEXT_LIMIT && (got = read_piece(c, fd, text + n, 1)) > 0)
		n++;
	if (got < 0 && c->task->code != TASK_CANCELLED)
		task_forgive(c->task); /* what matters has gone wrong before */
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	text[n] = 0;
	return text;
}

/* What is behind http:// or https://; NULL: neither. */
static const char *behind_scheme(const char *url, bool *ret_tls)
{
	static const char http[] = "http://", https[] = "https://";
	*ret_tls = starts_with(url, https);
	if (*ret_tls)
		return url + strlen(https);
	return starts_with(url, http) ? url + strlen(http) : NULL;
}

/* Connects to where url leads ("/path" is the server itself); its path is left in *path. */
static int connect_url(struct carrier *c, const char *url, const char **path)
{
	struct task *t = c->task;
	bool tls;
	*path = url;
	if (*url == '/')
		return server_connect(t, c->options);
	const char *place = behind_scheme(url, &tls);
	if (!place)
		return fail(t, INTERNAL_ERROR, str(t, "%s: xe cannot go there", url));
	char *host = talloc_strdup(t, place), *slash = strchr(host, '/');
	if (!slash)
		return fail(t, INTERNAL_ERROR, str(t, "%s: there is no path in it", url));
	*path = talloc_strdup(t, slash);
	*slash = 0;
	char *port = strrchr(host, ':');
	if (port)
		*port++ = 0;
	return *host ? server_connect_to(t, tls, host, port) : server_connect(t, c->options);
}

/* In place of a length: there is no body, or one of unknown length. */
enum {
	NO_BODY = -1,
	CHUNKS = -2, /* the body is sent in HTTP's chunks */
	CLOSED = -3, /* the body ends with the connection: the server takes no chunks */
};

/* Chunks need HTTP/1.1. */
static const char *head_of(const struct carrier *c, const char *method, const char *path,
			   long long length)
{
	struct task *t = c->task;
	const char *body = length >= 0        ? str(t, "Content-Length: %lld\r\n", length)
			   : length == CHUNKS ? "Transfer-Encoding: chunked\r\n"
					      : "";
	const char *host = c->options->server ? c->options->server : "localhost";
	return str(t,
		   "%s %s HTTP/1.%d\r\n"
		   "Host: %s\r\n"
		   "User-agent: xe-cli/Unix/0.2\r\n"
		   "%s\r\n",
		   method, path, length == CHUNKS, host, body);
}

/* Sends the request's head and reads the answer's. */
static int ask(struct carrier *c, int fd, const char *method, const char *path, long long length,
	       struct answer *ret)
{
	struct task *t = c->task;
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 127)
			return fail(t, INTERNAL_ERROR, "the server named a path with blanks in it");
	const char *head = head_of(c, method, path, length);
	if (write_piece(c, fd, head, strlen(head)) < 0)
		return -1;
	return read_head(c, fd, ret);
}

/* Our own servers say what is wrong, and end it with the code in brackets; of others the status is said, too. */
static int refused(struct carrier *c, int status, const char *text)
{
	return fail(c->task, INTERNAL_ERROR,
		    ends_with(text, "]")
			    ? text
			    : str(c->task, "the server answered %d: %s", status, text));
}

/* A connection on which the request was answered with 200, redirections followed; or -1.  XenServer
 * refuses chunks: then the request is sent once more with CLOSED, and *length says so. */
static int request(struct carrier *c, const char *method, const char *url, long long *length,
		   struct answer *ret)
{
	for (int i = 0; i < REDIRECTS; i++) {
		const char *path;
		FD_SCOPE int fd = connect_url(c, url, &path);
		if (fd < 0 || ask(c, fd, method, path, *length, ret) < 0)
			return -1;
		if (ret->status == 200) {
			int keep = fd;
			fd = -1;
			return keep;
		}
		if (*length == CHUNKS && (ret->status == 403 || ret->status == 501)) {
			*length = CLOSED;
			continue;
		}
		if (ret->status != 302 || !ret->location)
			return refused(c, ret->status, read_text(c, fd));
		url = ret->location;
	}
	return fail(c->task, INTERNAL_ERROR, "the server redirects for ever");
}

/* A bar ends with its scope, so that an error has a line of its own. */
#define SHOWN __attribute__((cleanup(progress_end)))

/* ---- GET ---- */

struct sink {
	int fd;
	bool sparse;
	off_t at;
};

/* Writes the blocks that hold anything; the length is set at the end. */
static int put_sparse(struct carrier *c, struct sink *to, const char *from, size_t n)
{
	for (size_t i = 0, size; i < n; i += size) {
		size = n - i < BLOCK ? n - i : BLOCK;
		if (is_zero(from + i, size))
			continue;
		ssize_t put = pwrite(to->fd, from + i, size, to->at + (off_t)i);
		if (put != (ssize_t)size)
			return task_fail_errno(c->task, put < 0 ? errno : ENOSPC, "write");
	}
	to->at += (off_t)n;
	return 0;
}

/* expected: bytes, or -1 when their end is the connection's. */
static int receive_body(struct carrier *c, int fd, long long expected, struct sink *to)
{
	char *piece = talloc_array(c->task, char, PIECE);
	long long total = 0;
	struct progress p SHOWN;
	progress_begin(&p, c->options, expected);
	for (;;) {
		size_t want = expected < 0 || expected - total > PIECE ? PIECE
								       : (size_t)(expected - total);
		ssize_t got = read_piece(c, fd, piece, want);
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		total += got;
		progress_add(&p, got);
		if ((to->sparse ? put_sparse(c, to, piece, (size_t)got)
				: write_piece(c, to->fd, piece, (size_t)got)) < 0)
			return -1;
	}
	talloc_free(piece);
	if (expected >= 0 && total != expected)
		return fail(c->task, INTERNAL_ERROR,
			    str(c->task, "the server sent %lld bytes of %lld and gave up", total,
				expected));
	return 0;
}

static int get_into(struct carrier *c, const char *path, int out, bool sparse)
{
	struct answer answer;
	struct sink to = { .fd = out, .sparse = sparse };
	long long none = NO_BODY;
	FD_SCOPE int fd = request(c, "GET", path, &none, &answer);
	if (fd < 0 || receive_body(c, fd, answer.length, &to) < 0)
		return -1;
	if (sparse && (ftruncate(out, to.at) < 0 || fsync(out) < 0))
		return task_fail_errno(c->task, errno, "write");
	return 0;
}

int carry_get(struct carrier *c, const char *file, const char *path)
{
	if (!*file)
		return get_into(c, path, STDOUT_FILENO, false);
	FD_SCOPE int out = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		return task_fail_errno(c->task, errno, file);
	if (get_into(c, path, out, true) < 0) {
		unlink(file);
		return -1;
	}
	return 0;
}

/* ---- PUT ---- */

/* Is there nothing in a file at `at` for n bytes?  *data is where the next data were seen. */
static bool is_hole(int file, long long at, size_t n, long long *data)
{
	if (at >= *data) {
		off_t next = lseek(file, at, SEEK_DATA);
		bool last = next < 0 && errno == ENXIO && lseek(file, 0, SEEK_END) > at;
		*data = next >= 0 ? next : last ? LLONG_MAX : at;
	}
	return *data - at >= (long long)n;
}

/* The same as read_piece() for what is to be sent; a hole is not read, which would take as long as data.  A
 * body of unknown length (below 0) has none. */
static ssize_t next_piece(struct carrier *c, int in, long long length, long long at, char *to,
			  size_t n, long long *data)
{
	if (length < 0)
		return read_piece(c, in, to, n);
	if (is_hole(in, at, n, data)) {
		memset(to, 0, n);
		return (ssize_t)n;
	}
	if (lseek(in, at, SEEK_SET) < 0)
		return task_fail_errno(c->task, errno, "lseek");
	return read_piece(c, in, to, n);
}

/* One write for each chunk: n bytes stand in room behind CHUNK_HEAD bytes that are still free. */
static int put_chunk(struct carrier *c, int fd, char *room, size_t n)
{
	char line[CHUNK_HEAD + 1];
	snprintf(line, sizeof line, "%08x\r\n", (unsigned)n);
	memcpy(room, line, CHUNK_HEAD);
	memcpy(room + CHUNK_HEAD + n, "\r\n", CHUNK_END);
	return write_piece(c, fd, room, CHUNK_HEAD + n + CHUNK_END);
}

/* Ends a body of unknown length. */
static int end_body(struct carrier *c, int fd, long long length, char *room)
{
	if (length == CHUNKS && put_chunk(c, fd, room, 0) < 0)
		return -1;
	return shutdown(fd, SHUT_WR) < 0 ? task_fail_errno(c->task, errno, "shutdown") : 0;
}

/* ret_ours: a failure is one of the input, and not of the connection. */
static int send_body(struct carrier *c, int in, long long length, int fd, bool *ret_ours)
{
	char *room = talloc_array(c->task, char, CHUNK_HEAD + PIECE + CHUNK_END);
	char *piece = room + CHUNK_HEAD;
	long long total = 0, data = 0;
	struct progress p SHOWN;
	progress_begin(&p, c->options, length);
	while (length < 0 || total < length) {
		size_t want =
			length < 0 || length - total > PIECE ? PIECE : (size_t)(length - total);
		ssize_t got = next_piece(c, in, length, total, piece, want, &data);
		*ret_ours = got < 0;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		total += got;
		if ((length == CHUNKS ? put_chunk(c, fd, room, (size_t)got)
				      : write_piece(c, fd, piece, (size_t)got)) < 0)
			return -1;
		progress_add(&p, got);
	}
	*ret_ours = length >= 0 && total != length;
	if (*ret_ours)
		return fail(c->task, INTERNAL_ERROR, "the file became shorter meanwhile");
	int result = length < 0 ? end_body(c, fd, length, room) : 0;
	talloc_free(room);
	return result;
}

static int interrupted(void)
{
	fprintf(stderr, "Interrupted: the content of the disk is undefined.\n");
	return -1;
}

/* After the body, the server ends the connection; or first says what went wrong, perhaps before
 * it has taken all of it.  When the input could not be read, the server only knows that bytes are
 * missing: our reason takes the place of its first line, and what it says of the disk stays. */
static int put_from(struct carrier *c, int in, long long length, const char *path)
{
	struct task *t = c->task;
	struct answer answer;
	FD_SCOPE int fd = request(c, "PUT", path, &length, &answer);
	if (fd < 0)
		return -1;
	bool ours = false;
	const char *trouble = send_body(c, in, length, fd, &ours) < 0 ? what_failed(t) : NULL;
	if (t->code == TASK_CANCELLED)
		return interrupted();
	if (trouble) {
		task_forgive(t);
		shutdown(fd, SHUT_WR); /* no more comes: the server need not wait for it */
	}
	const char *verdict = read_text(c, fd);
	if (t->code == TASK_CANCELLED)
		return interrupted();
	const char *of_the_disk = strchr(verdict, '\n');
	if (ours)
		return fail(t, INTERNAL_ERROR,
			    str(t, "%s%s", trouble, of_the_disk ? of_the_disk : ""));
	if (starts_with(verdict, "Error: "))
		return fail(t, INTERNAL_ERROR, verdict + strlen("Error: "));
	return trouble ? fail(t, INTERNAL_ERROR, trouble) : 0;
}

int carry_put(struct carrier *c, const char *file, const char *path)
{
	if (!*file || streq(file, "-"))
		return put_from(c, STDIN_FILENO, CHUNKS, path);
	struct stat st;
	FD_SCOPE int in = open(file, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		return task_fail_errno(c->task, errno, file);
	return put_from(c, in, S_ISREG(st.st_mode) ? st.st_size : CHUNKS, path);
}

/* ---- CONNECT ---- */

static int relay_terminal(struct task *t, int fd)
{
	static const char leave[] = "Connected; Ctrl-] leaves.\n", left[] = "\n";
	struct relay_end terminal = { STDIN_FILENO, STDOUT_FILENO }, server = { fd, fd };
	struct termios before, raw;
	if (tcgetattr(STDIN_FILENO, &before) < 0)
		return relay(t, terminal, server, -1);
	raw = before;
	cfmakeraw(&raw);
	if (io_write(t, STDERR_FILENO, leave, sizeof leave - 1, -1) < 0)
		return -1;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	int status = relay(t, terminal, server, LEAVE);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
	return io_write(t, STDERR_FILENO, left, sizeof left - 1, -1) < 0 ? -1 : status;
}

int carry_terminal(struct carrier *c, const char *path)
{
	struct answer answer;
	long long none = NO_BODY;
	FD_SCOPE int fd = request(c, "CONNECT", path, &none, &answer);
	return fd < 0 ? -1 : relay_terminal(c->task, fd);
}
