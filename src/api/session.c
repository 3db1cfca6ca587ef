// SPDX-License-Identifier: Apache-2.0
#include "api/session.h"

#include "api/call.h"
#include "api/settings.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* A wrong password is answered this late, so that guessing is slow. */
enum { REFUSAL_MS = 3000 };

static const char *password_path(struct task *t)
{
	return str(t, "%s/password", settings.state);
}

int sessions_open(struct task *t)
{
	if (!file_exists(password_path(t)) &&
	    file_write(t, password_path(t), str(t, "%s\n", random_hex(t, 16)), 0600) < 0)
		return -1;
	DB_SCOPE(t);
	DB_ALL (t, session, s)
		if (db_delete(t, &s->row) < 0)
			return -1;
	return db_commit(t);
}

/* Looks at every byte of b, whatever a is: the time tells nothing. */
static bool same_secret(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned char differ = n != m;
	for (size_t i = 0; i < m; i++)
		differ |= (unsigned char)((n ? a[i % n] : 0) ^ b[i]);
	return !differ;
}

static bool password_matches(struct task *t, const char *password)
{
	char *wanted = file_read(t, password_path(t), 4096);
	if (!wanted)
		return false;
	wanted[strcspn(wanted, "\n")] = 0;
	return *wanted && same_secret(wanted, password);
}

static const char *session_new(struct task *t, const char *user, const char *originator)
{
	DB_SCOPE(t);
	struct session_row *s = row_new(t, session);
	/* The ref is the secret: as many random bits as a ref can hold. */
	s->row.ref = str(s, "OpaqueRef:%s", uuid_new(s));
	s->this_host = this_host();
	s->last_active = time_now(s);
	s->is_local_superuser = true;
	s->auth_user_name = user;
	s->originator = originator;
	if (db_insert(t, &s->row) < 0 || db_commit(t) < 0)
		return NULL;
	return s->row.ref;
}

const char *session_login(struct task *t, const char *user, const char *password,
			  const char *originator)
{
	bool known = streq(user, "root") & password_matches(t, password);
	if (t->code != NO_ERROR)
		return NULL;
	if (known)
		return session_new(t, user, originator);
	log_line(t, "login refused user=\"%s\"", user);
	task_wait(t, -1, 0, REFUSAL_MS);
	return fail_ptr(t, SESSION_AUTHENTICATION_FAILED, user, "Authentication failed");
}

const char *session_local(struct task *t)
{
	return session_new(t, "root", "local");
}

const char *session_check(struct task *t, const char *ref)
{
	struct session_row *s = db_seek(t, session, ref);
	return s ? s->row.ref : fail_ptr(t, SESSION_INVALID, ref ? ref : "");
}

void session_end(struct task *t, const char *ref)
{
	struct task *own = task_new(t, t->name);
	{
		DB_SCOPE(own);
		struct session_row *s = db_seek(own, session, ref);
		if (s && db_delete(own, &s->row) == 0)
			db_commit(own);
	}
	talloc_free(own);
}

int session_login_with_password(struct task *t, struct session_login_with_password *a)
{
	a->result = session_login(t, a->uname, a->pwd, a->originator);
	return a->result ? 0 : -1;
}

int session_logout(struct task *t, struct session_logout *a)
{
	if (!session_check(t, a->self))
		return -1;
	session_end(t, a->self);
	return 0;
}
