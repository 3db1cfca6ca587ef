// SPDX-License-Identifier: Apache-2.0
/* auth.h -- who makes a request that is not a call: uploads, downloads, consoles. */
#pragma once

#include <stdbool.h>

struct task;
struct request;

/* Sets t->session from session_id= in the query, the local socket, or Basic credentials.
 * Otherwise answers 401 and returns -1.  auth_end() ends a session made for this request. */
int auth_begin(struct task *, struct request *);
void auth_end(struct task *, struct request *);

/* Basic credentials, on ctx: false when `header` is not such.  Pure. */
bool auth_basic(const void *ctx, const char *header, const char **ret_user,
		const char **ret_password);
