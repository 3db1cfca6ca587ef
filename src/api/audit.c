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
#include "base/limits.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum { SHOWN = sizeof "OpaqueRef:" - 1 + 8, USERS = 256 };

/* For the files, and for how many logins there were. */
static struct {
	pthread_mutex_t lock;
	struct logins {
		char user[AUDIT_NAME_LIMIT + 1];
		struct bucket bucket;
	} logins[USERS]; /* of more users, the one that was quiet for longest is forgotten */
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- a record ---- */

/* Nothing in it ends the quotes that it stands in, and it is no longer than a name. */
static const char *tame(struct task *t, const char *text)
{
	char *s = text_cut(t, text, AUDIT_NAME_LIMIT);
	for (char *p = s; *p; p++)
		if ((unsigned char)*p < ' ' || *p == '"' || *p == '\\' || *p == 127)
			*p = '?';
	return s;
}

static void append(struct task *t, const char *file, const char *line)
{
	struct stat st;
	const char *path = str(t, "%s/%s", settings.state, file);
	pthread_mutex_lock(&all.lock);
	if (stat(path, &st) == 0 && st.st_size > AUDIT_FILE_LIMIT)
		rename(path, str(t, "%s.old", path));
	FD_SCOPE int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int written = fd < 0 ? -1 : io_write(t, fd, line, strlen(line), -1);
	pthread_mutex_unlock(&all.lock);
	if (written < 0)
		log_line(t, "not written to %s line=\"%s\"", file, line);
}

/* more: how many like this were left out, "" none. */
static void tell(struct task *t, const char *file, const char *user, const char *session,
		 const char *did, const char *object, const char *more)
{
	struct task *own = task_new(t, t->name);
	char moment[LOG_MOMENT];
	log_moment(moment);
	append(own, file,
	       str(own, "%s user=\"%s\" session=%.*s from=\"%s\" did=%s on=%s result=%s%s\n",
		   moment, tame(own, user), (int)SHOWN, *session ? session : "-",
		   tame(own, t->peer), did, *object ? tame(own, masked(own, object)) : "-",
		   t->code == NO_ERROR ? "success" : code_rows[t->code].name, more));
	talloc_free(own);
}

/* Refused calls have a file of their own, so that they push no deed out of the other. */
static const char *file_for(const struct task *t)
{
	bool refused =
		t->code == RBAC_PERMISSION_DENIED || t->code == SESSION_AUTHENTICATION_FAILED;
	return refused ? "refused.log" : "audit.log";
}

void audit(struct task *t, const char *did, const char *object)
{
	if (!*t->session)
		return;
	struct task *own = task_new(t, t->name);
	own->session = t->session;
	tell(t, file_for(t), session_user(own), t->session, did, object, "");
	talloc_free(own);
}

/* ---- logins ---- */

/* Lock held. */
static struct bucket *bucket_of(const char *user)
{
	struct logins *quietest = &all.logins[0];
	for (size_t i = 0; i < USERS; i++) {
		struct logins *l = &all.logins[i];
		if (strncmp(l->user, user, AUDIT_NAME_LIMIT) == 0)
			return &l->bucket;
		if (l->bucket.since_ms < quietest->bucket.since_ms)
			quietest = l;
	}
	*quietest = (struct logins){ 0 };
	snprintf(quietest->user, sizeof quietest->user, "%s", user);
	return &quietest->bucket;
}

/* How many of the user's were left out; -1: so is this one. */
static int64_t count_login(const char *user)
{
	pthread_mutex_lock(&all.lock);
	struct bucket *b = bucket_of(user);
	bool told = bucket_take(b, 1, AUDIT_LOGINS_LIMIT, AUDIT_LOGINS_LIMIT / 60.0);
	int64_t left_out = told ? b->left_out : -1;
	if (told)
		b->left_out = 0;
	pthread_mutex_unlock(&all.lock);
	return left_out;
}

void audit_login(struct task *t, const char *user, const char *session)
{
	int64_t left_out = t->code == NO_ERROR ? count_login(user) : 0;
	if (left_out < 0)
		return;
	const char *more = left_out ? str(t, " left-out=%lld", (long long)left_out) : "";
	tell(t, file_for(t), user, session, "session.login_with_password", "", more);
}
