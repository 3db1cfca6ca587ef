// SPDX-License-Identifier: Apache-2.0
#include "xe/say.h"

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

int say(struct task *t, int fd, const char *text)
{
	char *line = str(t, "%s\n", text);
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
