// SPDX-License-Identifier: Apache-2.0
/* auth.h -- who makes a request that is not a call: uploads, downloads, consoles. */
#pragma once

#include <stdbool.h>

#include "api/role.h"

struct task;
struct request;

/* Sets t->session: to session_id= of the query; else, on the local socket, to that of the local
 * user; else to one made for this request from Basic credentials.  Otherwise answers 401, or
 * 403 when it has not the role, and returns -1.  (No cookies: a browser would send them for any page.) */
int auth_begin(struct task *, struct request *, enum role);
/* Ends the session if it was made for this request. */
void auth_end(struct task *, struct request *);

/* The user and password of an Authorization header, on ctx; false when it holds anything else. */
bool auth_basic(const void *ctx, const char *header, const char **ret_user,
		const char **ret_password);
