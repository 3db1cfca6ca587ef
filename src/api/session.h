// SPDX-License-Identifier: Apache-2.0
/* session.h -- logins.  There is one user, root, whose password stands in the file `password` of the state
 * folder; whoever reaches the local socket with root's or the daemon's own uid needs none. */
#pragma once

struct task;

/* Makes the password file if there is none, and forgets the sessions of an earlier run. */
int sessions_open(struct task *);

/* The session's ref on t, or NULL: SESSION_AUTHENTICATION_FAILED [user, text], after a while. */
const char *session_login(struct task *, const char *user, const char *password,
			  const char *originator);
/* The session of a caller whom the local socket trusts. */
const char *session_local(struct task *);
/* ref when it is a session; NULL with SESSION_INVALID [ref]. */
const char *session_check(struct task *, const char *ref);
/* Ends it; one that is not there is no error. */
void session_end(struct task *, const char *ref);
