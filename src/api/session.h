// SPDX-License-Identifier: Apache-2.0
/* session.h -- logins.  Users are accounts of the host (account.h); whoever reaches the local
 * socket with root's or the daemon's own uid needs no password.
 *
 * A session ends by logout, when it was not used for a day, or when its user opens too many: the
 * one of his that was used longest ago, then. */
#pragma once

#include <stdbool.h>

struct task;

/* Forgets the sessions of an earlier run. */
int sessions_open(struct task *);

/* The session's ref on t, or NULL: SESSION_AUTHENTICATION_FAILED [user, text], after a while. */
const char *session_login(struct task *, const char *user, const char *password,
			  const char *originator);
/* The session of a caller whom the local socket trusts. */
const char *session_local(struct task *);
/* The one under which a schedule's snapshots are taken; and is t's of that kind? */
const char *session_of_schedules(struct task *);
bool session_is_of_schedules(struct task *);
/* ref when it is a session; NULL with SESSION_INVALID [ref], or TOO_BUSY: its user asks for too
 * much at a time. */
const char *session_check(struct task *, const char *ref);
/* Is it one?  Nothing is noted. */
bool session_is_known(struct task *, const char *ref);
/* The name of who asked t for something; "" the daemon itself. */
const char *session_user(struct task *);
/* Ends it; one that is not there is no error. */
void session_end(struct task *, const char *ref);
