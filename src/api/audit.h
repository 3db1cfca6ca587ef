// SPDX-License-Identifier: Apache-2.0
/* audit.h -- who did what, when, from where, and what came of it: lines of audit.log in the state
 * folder.
 *
 *     2026-11-28T17:20:03.511Z user="root" session=OpaqueRef:1c9f03aa from="192.0.2.1:4711" did=VM.snapshot
 *             on=OpaqueRef:... result=success           (in one line)
 *
 * What the daemon does by itself stands in its own log.  Of a session's reference, which is a
 * secret, there is the beginning, and so of a long name.  Logins and calls that were refused stand
 * in refused.log: however many there are, no deed goes for them.  When a file is large it becomes
 * audit.log.old, or refused.log.old.  Of a user who logs in all the time not each login is
 * recorded; how many were not, the next record says (left-out=). */
#pragma once

struct task;

/* What t's session did to the object ("": none), with t's error or without one; what only looks is not told. */
void audit(struct task *, const char *did, const char *object);
/* A login as the user, that t's error says did not work, or that did. */
void audit_login(struct task *, const char *user, const char *session);
