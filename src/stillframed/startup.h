// SPDX-License-Identifier: Apache-2.0
/* startup.h -- the order in which the daemon comes up and goes down. */
#pragma once

struct task;
struct config;

/* Settings, database, guests that run already, the journal of an earlier crash, and last the
 * doors.  When it returns, clients are served.  Guests that do not answer, and what waits for them, are seen to
 * afterwards. */
int startup(struct task *, const struct config *);
/* The reverse; guests run on.  Ends within a second beyond what running calls need to come to an end. */
void shutdown_daemon(struct task *);
