// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/task.h"

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
	char text[3500], line[4096];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);

	size_t n = log_moment(line);
	n += (size_t)snprintf(line + n, 160, " %.60s%s%.60s ", t ? t->name : "-",
			      t && *t->ref ? " " : "", t ? t->ref : "");
	n += escape(line + n, sizeof line - n - 1, text);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* nowhere left to say so */
}
