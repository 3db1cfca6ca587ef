// SPDX-License-Identifier: Apache-2.0
#include "api/session.h"

#include "api/account.h"
#include "api/attempts.h"
#include "api/audit.h"
#include "api/call.h"
#include "api/role.h"
#include "api/settings.h"
#include "api/subject.h"
#include "api/user.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

int sessions_open(struct task *t)
{
	DB_SCOPE(t);
	DB_ALL (t, session, s)
		if (db_delete(t, &s->row) < 0)
			return -1;
	return db_commit(t);
}

/* ---- how many there may be ---- */

static const struct cap {
	const char *field;
	int named, unnamed; /* with a value, and without */
} caps[] = {
	{ "originator", 500, 400 },
	{ "auth_user_name", 500, 500 },
};

/* Room for one more: the oldest goes.  Those on the local socket end with their connections. */
static int make_room(struct task *t, const struct session_row *new, const struct cap *cap)
{
	const char *value = field_text(t, &new->row, model_field(&class_session, cap->field));
	int n = 0, most = *value ? cap->named : cap->unnamed;
	struct session_row *oldest = NULL;
	for (struct row **r = db_find(t, &class_session, cap->field, value); *r; r++, n++) {
		struct session_row *s = (struct session_row *)*r;
		if (!oldest || strcmp(s->last_active, oldest->last_active) < 0)
			oldest = s;
	}
	return n < most ? 0 : db_delete(t, &oldest->row);
}

static int drop_idle(struct task *t)
{
	const char *limit = time_ago(t, delay_s(DELAY_SESSION_IDLE));
	DB_ALL (t, session, s)
		if (strcmp(s->last_active, limit) < 0 && db_delete(t, &s->row) < 0)
			return -1;
	return 0;
}

static int limit(struct task *t, const struct session_row *new)
{
	if (drop_idle(t) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(caps); i++)
		if (make_room(t, new, &caps[i]) < 0)
			return -1;
	return 0;
}

/* ---- login ---- */

static const char local[] = "local";

static void set_subject(struct task *t, struct session_row *s, const struct subject_row *subject)
{
	enum role r = subject_role(t, subject);
	s->subject = subject->row.ref;
	s->auth_user_sid = subject->subject_identifier;
	s->role = role_name(r);
	s->rbac_permissions = role_permissions(s, r);
}

static bool may_log_in(struct task *t, const char *user, const struct subject_row **ret_subject)
{
	*ret_subject = streq(user, "root") ? NULL : subject_of(t, user);
	return streq(user, "root") || (*ret_subject && subject_role(t, *ret_subject) < ROLES);
}

/* subject NULL: root's, or one of ours. */
static const char *session_new(struct task *t, const char *user, const struct subject_row *subject,
			       const char *originator)
{
	DB_SCOPE(t);
	struct session_row *s = row_new(t, session);
	/* The ref is the secret: as many random bits as a ref can hold. */
	s->row.ref = str(s, "OpaqueRef:%s", uuid_new(s));
	s->this_host = this_host();
	s->last_active = time_now(s);
	s->is_local_superuser = !subject;
	s->auth_user_name = user;
	if (subject)
		set_subject(t, s, subject);
	else
		s->this_user = user_root(t);
	s->originator = originator;
	bool limited = originator != local;
	if ((limited && limit(t, s) < 0) || db_insert(t, &s->row) < 0 || db_commit(t) < 0)
		return NULL;
	return s->row.ref;
}

static const char *refuse(struct task *t, const char *user, int64_t answered)
{
	int64_t left = answered - clock_ms();
	fail(t, SESSION_AUTHENTICATION_FAILED, user, "Authentication failed");
	log_line(t, "login refused user=\"%s\"", user);
	audit_login(t, user, "");
	struct task *own = task_part(t);
	task_wait(own, -1, 0, left > 0 ? (int)left : 0);
	talloc_free(own);
	return NULL;
}

const char *session_login(struct task *t, const char *user, const char *password,
			  const char *originator)
{
	int64_t answered = clock_ms() + delay_ms(DELAY_LOGIN_REFUSAL);
	const struct subject_row *subject;
	int right = attempt_begin(t) ? account_check(t, user, password) : 0;
	if (right < 0 || t->code != NO_ERROR)
		return NULL;
	right = may_log_in(t, user, &subject) && right;
	attempt_end(t, right);
	if (!right)
		return refuse(t, user, answered);
	const char *session = session_new(t, user, subject, originator);
	audit_login(t, user, session ? session : "");
	return session;
}

const char *session_local(struct task *t)
{
	return session_new(t, "root", NULL, local);
}

static const char scheduler[] = "__dom0__vmss";

const char *session_of_schedules(struct task *t)
{
	return session_new(t, scheduler, NULL, local);
}

bool session_is_of_schedules(struct task *t)
{
	const struct session_row *s = db_seek(t, session, t->session);
	return s && s->is_local_superuser && streq(s->auth_user_name, scheduler);
}

/* That it is used. */
static void note_use(struct task *t, const char *ref)
{
	struct task *own = task_new(t, t->name);
	{
		DB_SCOPE(own);
		struct session_row *s = db_seek(own, session, ref);
		if (s) {
			s->last_active = time_now(s);
			if (db_put(own, &s->row) == 0)
				db_commit(own);
		}
	}
	talloc_free(own);
}

const char *session_check(struct task *t, const char *ref)
{
	struct session_row *s = db_seek(t, session, ref);
	if (!s || strcmp(s->last_active, time_ago(t, delay_s(DELAY_SESSION_IDLE))) < 0)
		return fail_ptr(t, SESSION_INVALID, ref ? ref : "");
	if (strcmp(s->last_active, time_ago(t, delay_s(DELAY_SESSION_NOTED))) < 0)
		note_use(t, ref);
	return s->row.ref;
}

const char *session_user(struct task *t)
{
	const struct session_row *s = *t->session ? db_seek(t, session, t->session) : NULL;
	return s ? s->auth_user_name : "";
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

/* Who may open the local socket needs no password there: programs on the host log in with an empty one. */
int session_login_with_password(struct task *t, struct session_login_with_password *a)
{
	bool local_root = t->trusted && (!*a->uname || streq(a->uname, "root"));
	a->result =
		local_root ? session_local(t) : session_login(t, a->uname, a->pwd, a->originator);
	return a->result ? 0 : -1;
}

int session_logout(struct task *t, struct session_logout *a)
{
	if (!session_check(t, a->self))
		return -1;
	session_end(t, a->self);
	return 0;
}

int session_get_all_subject_identifiers(struct task *t,
					struct session_get_all_subject_identifiers *a)
{
	DB_ALL (t, session, s)
		if (*s->auth_user_sid)
			list_put(t, &a->result, s->auth_user_sid);
	return 0;
}

int session_logout_subject_identifier(struct task *t, struct session_logout_subject_identifier *a)
{
	DB_SCOPE(t);
	DB_ALL (t, session, s)
		if (*s->auth_user_sid && streq(s->auth_user_sid, a->subject_identifier) &&
		    db_delete(t, &s->row) < 0)
			return -1;
	return db_commit(t);
}
