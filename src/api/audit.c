// SPDX-License-Identifier: Apache-2.0
#include "api/audit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/masked.h"
#include "api/session.h"
#include "api/settings.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum { LIMIT = 8 << 20, SHOWN = sizeof "OpaqueRef:" - 1 + 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Nothing in it ends the quotes that it stands in. */
static const char *tame(struct task *t, const char *text)
{
	char *s = talloc_strdup(t, text);
	for (char *p = s; *p; p++)
		if ((unsigned char)*p < ' ' || *p == '"' || *p == '\\' || *p == 127)
			*p = '?';
	return s;
}

static void append(struct task *t, const char *line)
{
	struct stat st;
	const char *path = str(t, "%s/audit.log", settings.state);
	pthread_mutex_lock(&lock);
	if (stat(path, &st) == 0 && st.st_size > LIMIT)
		rename(path, str(t, "%s.old", path));
	FD_SCOPE int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int written = fd < 0 ? -1 : io_write(t, fd, line, strlen(line), -1);
	pthread_mutex_unlock(&lock);
	if (written < 0)
		log_line(t, "not written to audit.log line=\"%s\"", line);
}

static void tell(struct task *t, const char *user, const char *session, const char *did,
		 const char *object)
{
	struct task *own = task_new(t, t->name);
	char moment[LOG_MOMENT];
	log_moment(moment);
	append(own, str(own, "%s user=\"%s\" session=%.*s from=\"%s\" did=%s on=%s result=%s\n",
			moment, tame(own, user), (int)SHOWN, *session ? session : "-",
			tame(own, t->peer), did, *object ? tame(own, masked(own, object)) : "-",
			t->code == NO_ERROR ? "success" : code_rows[t->code].name));
	talloc_free(own);
}

void audit(struct task *t, const char *did, const char *object)
{
	if (!*t->session)
		return;
	struct task *own = task_new(t, t->name);
	own->session = t->session;
	tell(t, session_user(own), t->session, did, object);
	talloc_free(own);
}

void audit_login(struct task *t, const char *user, const char *session)
{
	tell(t, user, session, "session.login_with_password", "");
}
