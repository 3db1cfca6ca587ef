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
#include "base/limits.h"
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

static int drop_idle(struct task *t)
{
	struct list idle = db_refs_below(t, &class_session, "last_active",
					 time_ago(t, delay_s(DELAY_SESSION_IDLE)));
	for (size_t i = 0; i < idle.n; i++) {
		const struct row *s = db_seek_row(t, &class_session, idle.v[i]);
		if (s && db_delete(t, s) < 0)
			return -1;
	}
	return 0;
}

/* Room for one more of the same user: the one that was used longest ago goes.  None pushes out
 * another user's. */
static int make_room(struct task *t, const char *user)
{
	int64_t n = db_number(t, &class_session, "auth_user_name", user, NULL);
	for (; n >= SESSIONS_OF_USER_LIMIT; n--) {
		const char *oldest =
			db_first(t, &class_session, "last_active", "auth_user_name", user, NULL);
		const struct row *s = oldest ? db_seek_row(t, &class_session, oldest) : NULL;
		if (s && db_delete(t, s) < 0)
			return -1;
	}
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
	s->originator = text_cut(s, originator, ORIGINATOR_LIMIT);
	bool limited = originator != local; /* those end with their connections */
	if ((limited && (drop_idle(t) < 0 || make_room(t, user) < 0)) ||
	    db_insert(t, &s->row) < 0 || db_commit(t) < 0)
		return NULL;
	return s->row.ref;
}

static void note_refusal(struct task *t, const char *user)
{
	log_line(t, "login refused user=\"%.*s\"", AUDIT_NAME_LIMIT, user);
	audit_login(t, user, "");
}

/* answered: when, however soon it is known. */
static const char *refuse(struct task *t, const char *user, int64_t answered)
{
	int64_t left = answered - clock_ms();
	fail(t, SESSION_AUTHENTICATION_FAILED, user, "Authentication failed");
	note_refusal(t, user);
	struct task *own = task_part(t);
	own->cancellable = true;
	task_wait(own, -1, 0, left > 0 ? (int)left : 0);
	talloc_free(own);
	return NULL;
}

/* It has not been looked at, so that it is answered at once tells nothing. */
static const char *refuse_unseen(struct task *t, const char *user)
{
	if (t->code != NO_ERROR)
		return NULL;
	fail(t, SESSION_AUTHENTICATION_FAILED, user,
	     "There were too many wrong passwords from this address. Try again later.");
	note_refusal(t, user);
	return NULL;
}

/* 1, 0, or -1 with an error. */
static int look_at(struct task *t, struct attempt *a, const char *user, const char *password,
		   const struct subject_row **ret_subject)
{
	int right = account_check(t, user, password);
	if (right >= 0)
		right = may_log_in(t, user, ret_subject) && right;
	attempt_end(a, right < 0 ? ATTEMPT_UNKNOWN : right ? ATTEMPT_RIGHT : ATTEMPT_WRONG);
	return right;
}

const char *session_login(struct task *t, const char *user, const char *password,
			  const char *originator)
{
	int64_t answered = clock_ms() + delay_ms(DELAY_LOGIN_REFUSAL);
	const struct subject_row *subject = NULL;
	struct attempt *attempt = attempt_begin(t, user);
	if (!attempt)
		return refuse_unseen(t, user);
	int right = look_at(t, attempt, user, password, &subject);
	if (right <= 0)
		return right < 0 ? NULL : refuse(t, user, answered);
	if (task_vouch(t, user) < 0)
		return NULL;
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
	if (task_vouch(t, s->auth_user_name) < 0)
		return NULL;
	if (strcmp(s->last_active, time_ago(t, delay_s(DELAY_SESSION_NOTED))) < 0)
		note_use(t, ref);
	return s->row.ref;
}

bool session_is_known(struct task *t, const char *ref)
{
	const struct session_row *s = db_seek(t, session, ref);
	return s && strcmp(s->last_active, time_ago(t, delay_s(DELAY_SESSION_IDLE))) >= 0;
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
	a->result = local_root ? session_new(t, "root", NULL, a->originator)
			       : session_login(t, a->uname, a->pwd, a->originator);
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
