// SPDX-License-Identifier: Apache-2.0
/* auth.h -- who makes a request that is not a call: uploads, downloads, consoles. */
#pragma once

#include <stdbool.h>

#include "api/role.h"

struct task;
struct request;

/* Sets t->session: to session_id= of the query, or of a cookie of a client that is no browser; else, on the local socket, to that of the local
 * user; else to one made for this request from Basic credentials.  Otherwise answers 401, or
 * 403 when it has not the role, and returns -1.  task_id= of the query is a task that the client has made for the request.
 *
 * A browser sends by itself whatever it keeps for a server, also for a page of another site, and for one whose name
 * was made to point here.  So a browser's cookies do not count; Basic credentials do not count when the request comes from a page
 * of another site; and a session is always named by who means it. */
int auth_begin(struct task *, struct request *, enum role);
/* A request that no route is for: the task that its client has made for it fails. */
void auth_refused(struct task *, struct request *);
/* Ends the session if it was made for this request, and the task if no call has. */
void auth_end(struct task *, struct request *);

/* The user and password of an Authorization header, on ctx; false when it holds anything else. */
bool auth_basic(const void *ctx, const char *header, const char **ret_user,
		const char **ret_password);
