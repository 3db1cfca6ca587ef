// SPDX-License-Identifier: Apache-2.0
/* known_hosts.c -- lines of the form `HOST:PORT SHA256`. */
#include "xe/known_hosts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/io.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "xe/options.h"

enum { FILE_LIMIT = 1 << 20 };

/* What is remembered of the server; "" nothing. */
static const char *remembered(struct task *t, const char *path, const char *server)
{
	if (!file_exists(path))
		return "";
	char *text = file_read(t, path, FILE_LIMIT);
	struct list lines = list_split(t, text ? text : "", '\n');
	const char *begin = str(t, "%s ", server);
	for (size_t i = 0; i < lines.n; i++)
		if (starts_with(lines.v[i], begin))
			return lines.v[i] + strlen(begin);
	return text ? "" : NULL;
}

static int remember(struct task *t, const char *path, const char *server, const char *print)
{
	const char *line = str(t, "%s %s\n", server, print);
	FD_SCOPE int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return task_fail_errno(t, errno, path);
	return io_write(t, fd, line, strlen(line), -1);
}

int known_host(struct task *t, const char *host, const char *port, const unsigned char *print,
	       size_t n)
{
	const char *home = home_folder(), *path = str(t, "%s/.xe-hosts", home ? home : "");
	const char *server = str(t, "%s:%s", host, port), *now = hex_text(t, print, n);
	if (!home)
		return fail(t, INTERNAL_ERROR,
			    str(t,
				"There is no folder in which the certificate of %s could be looked "
				"up, "
				"so it is not trusted.\nSet HOME to a folder of yours.",
				server));
	const char *before = remembered(t, path, server);
	if (!before)
		return -1;
	if (!*before)
		return remember(t, path, server, now);
	if (streq(before, now))
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t,
			"%s shows another certificate than before.\n"
			"Its SHA-256 fingerprint is %s, that of before %s.\n"
			"If the server has got a new one, remove its line from %s.",
			server, now, before, path));
}
