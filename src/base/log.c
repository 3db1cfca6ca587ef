// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/peer.h"
#include "base/task.h"
#include "base/text.h"

enum { LINE_MOST = 3500, KINDS = 256, KINDS_EACH_S = LOG_LINES_LIMIT / 10 };

/* ---- how much is said about clients ---- */

/* Of lines of one kind about one source; two that fall together share one, so there are only so
 * many. */
static struct {
	pthread_mutex_t lock;
	struct bucket kinds[KINDS];
} said = { .lock = PTHREAD_MUTEX_INITIALIZER };

static size_t kind_of(const struct task *t, const char *fmt)
{
	char *source = peer_source(NULL, t->peer);
	size_t h = 5381;
	for (const char *s = source; *s; s++)
		h = h * 33 + (unsigned char)*s;
	for (const char *s = fmt; *s; s++)
		h = h * 33 + (unsigned char)*s;
	talloc_free(source);
	return h % KINDS;
}

/* How many were left out since the last one; -1: so is this one. */
static int64_t may_say(const struct task *t, const char *fmt)
{
	struct bucket *b = &said.kinds[kind_of(t, fmt)];
	pthread_mutex_lock(&said.lock);
	bool may = bucket_take(b, 1, LOG_LINES_LIMIT, KINDS_EACH_S);
	int64_t left_out = may ? b->left_out : -1;
	if (may)
		b->left_out = 0;
	pthread_mutex_unlock(&said.lock);
	return left_out;
}

/* ---- a line ---- */

static size_t escape(char *to, size_t room, const char *from)
{
	size_t n = 0;
	for (; *from && n + 5 < room; from++) {
		unsigned char c = (unsigned char)*from;
		if (c < 32 || c == 127)
			n += (size_t)snprintf(to + n, room - n, "\\x%02x", c);
		else
			to[n++] = (char)c;
	}
	return n;
}

size_t log_moment(char to[LOG_MOMENT])
{
	int64_t ms = clock_day_ns() / 1000000;
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	gmtime_r(&s, &tm);
	size_t n = strftime(to, LOG_MOMENT, "%Y-%m-%dT%H:%M:%S", &tm);
	return n + (size_t)snprintf(to + n, LOG_MOMENT - n, ".%03dZ", (int)(ms % 1000));
}

void log_line(const struct task *t, const char *fmt, ...)
{
	char text[LINE_MOST], line[4096];
	bool remote = t && peer_is_remote(t->peer);
	int64_t left_out = remote ? may_say(t, fmt) : 0;
	if (left_out < 0)
		return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);

	size_t most = remote ? LOG_LINE_LIMIT : sizeof line - 1;
	size_t n = log_moment(line);
	n += (size_t)snprintf(line + n, 160, " %.60s%s%.60s ", t ? t->name : "-",
			      t && *t->ref ? " " : "", t ? t->ref : "");
	if (left_out)
		n += (size_t)snprintf(line + n, 60, "(%lld like this left out) ",
				      (long long)left_out);
	n += escape(line + n, most - n, text);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* nowhere left to say so */
}

/* ---- the file ---- */

static char *log_path; /* NULL: it is not ours */

static int open_file(struct task *t, const char *path)
{
	FD_SCOPE int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 || dup2(fd, STDERR_FILENO) < 0 ? task_fail_errno(t, errno, path) : 0;
}

int log_to_file(struct task *t, const char *path)
{
	if (open_file(t, path) < 0)
		return -1;
	log_path = strdup(path);
	return 0;
}

void log_trim(struct task *t)
{
	struct stat st;
	if (!log_path || stat(log_path, &st) < 0 || st.st_size <= LOG_FILE_LIMIT)
		return;
	if (rename(log_path, str(t, "%s.old", log_path)) < 0 || open_file(t, log_path) < 0)
		log_line(t, "log not begun anew error=\"%s\"", strerror(errno));
	task_forgive(t);
}
