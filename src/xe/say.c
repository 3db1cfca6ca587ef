// SPDX-License-Identifier: Apache-2.0
#include "xe/say.h"

#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

const char *said(const void *ctx, int fd, const char *text)
{
	return isatty(fd) ? text_visible(ctx, text) : text;
}

int say(struct task *t, int fd, const char *text)
{
	char *line = str(t, "%s\n", said(t, fd, text));
	int status = io_write(t, fd, line, strlen(line), -1);
	talloc_free(line);
	return status;
}

const char *what_failed(const struct task *t)
{
	for (const char **p = t->params; p && *p; p++)
		if (**p)
			return *p;
	return code_rows[t->code].text;
}
