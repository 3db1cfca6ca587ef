// SPDX-License-Identifier: Apache-2.0
#include "wire/auth.h"

#include "api/session.h"
#include "api/tasks.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"
#include "wire/site.h"

static const char *login(struct task *t, struct request *req)
{
	const char *header = map_get(&req->headers, "authorization"), *user, *password;
	if (header && site_is_another(req))
		return fail_ptr(t, RBAC_PERMISSION_DENIED, str(t, "http%s", req->path),
				"A page of another site may not use the password that the browser "
				"keeps for this one: give session_id=");
	if (!header || !auth_basic(t, header, &user, &password))
		return fail_ptr(t, SESSION_AUTHENTICATION_FAILED, "",
				"Give session_id= or a password");
	return session_login(t, user, password, "http");
}

static const char *who(struct task *t, struct request *req)
{
	const char *given = map_get(&req->query, "session_id");
	if (given)
		return session_check(t, given);
	return req->trusted ? session_local(t) : login(t, req);
}

int auth_begin(struct task *t, struct request *req, enum role needed)
{
	const char *session = who(t, req);
	const char *task = map_get(&req->query, "task_id");
	t->session = session ? session : "";
	if (session && role_check(t, needed, str(t, "http%s", req->path)) == 0 &&
	    (!task || task_adopt(t, task) == 0))
		return 0;
	http_refuse(t, req, http_status_of(t), task_error(t));
	if (session)
		auth_end(t, req);
	return -1;
}

void auth_end(struct task *t, struct request *req)
{
	task_settle(t);
	if (req->trusted || map_get(&req->query, "session_id"))
		return;
	session_end(t, t->session);
}
