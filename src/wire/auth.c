// SPDX-License-Identifier: Apache-2.0
#include "wire/auth.h"

#include "api/session.h"
#include "api/tasks.h"
#include "api/words.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"
#include "wire/site.h"

static const char *login(struct task *t, struct request *req)
{
	const char *header = map_get(&req->headers, "authorization"), *user, *password;
	if (!header || !auth_basic(t, header, &user, &password))
		return fail_ptr(t, SESSION_AUTHENTICATION_FAILED, "",
				"Give session_id= or a password");
	return session_login(t, user, password, "http");
}

/* One of the pairs of the header Cookie; NULL: there is none. */
static const char *cookie(struct task *t, const struct request *req, const char *name)
{
	const char *header = map_get(&req->headers, "cookie");
	struct list pairs = list_split(t, header ? header : "", ';');
	size_t n = strlen(name);
	for (size_t i = 0; i < pairs.n; i++) {
		const char *pair = pairs.v[i] + strspn(pairs.v[i], " ");
		if (starts_with(pair, name) && pair[n] == '=')
			return pair + n + 1;
	}
	return NULL;
}

/* What the client itself gave: in the query, or as XenServer's graphical clients do it, in a cookie.  A browser
 * sends cookies along whatever page asks, so that only those of programs count. */
static const char *given(struct task *t, const struct request *req, const char *name)
{
	const char *value = map_get(&req->query, name);
	return value || site_is_of_a_page(req) ? value : cookie(t, req, name);
}

/* What a request is trusted with that names no session is its browser's, and not the page's. */
static bool is_lent(const struct request *req)
{
	return (req->trusted || map_get(&req->headers, "authorization")) && site_is_another(req);
}

static const char *who(struct task *t, struct request *req)
{
	const char *session = given(t, req, "session_id");
	if (session)
		return session_check(t, session);
	if (is_lent(req))
		return fail_ptr(t, RBAC_PERMISSION_DENIED, str(t, "http%s", req->path),
				"A page of another site may not use the password that the browser "
				"keeps for this one: give session_id=");
	return req->trusted ? session_local(t) : login(t, req);
}

int auth_begin(struct task *t, struct request *req, enum role needed)
{
	const char *session = who(t, req);
	const char *task = given(t, req, "task_id");
	t->session = session ? session : "";
	if (session && role_check(t, needed, str(t, "http%s", req->path)) == 0 &&
	    (!task || task_adopt(t, task) == 0))
		return 0;
	http_refuse(t, req, http_status_of(t), failure_line(t));
	if (session)
		auth_end(t, req);
	return -1;
}

void auth_end(struct task *t, struct request *req)
{
	task_settle(t);
	if (req->trusted || given(t, req, "session_id"))
		return;
	session_end(t, t->session);
}

void auth_refused(struct task *t, struct request *req)
{
	const char *session = given(t, req, "session_id"), *task = given(t, req, "task_id");
	if (!session || !task || !session_check(t, session))
		return task_forgive(t);
	t->session = session;
	if (task_adopt(t, task) == 0)
		fail(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s %s", req->method, req->path));
	task_settle(t);
	task_forgive(t);
}
