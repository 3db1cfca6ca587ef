// SPDX-License-Identifier: Apache-2.0
/* account.h -- passwords are those of the host's own accounts: PAM knows them, as the service `stillframe` (or
 * `other`, where /etc/pam.d has no file of that name).  Its modules are others' code, and may wait for servers: they
 * run in a process of their own, which can be ended. */
#pragma once

struct task;

/* 1: that is the user's password, and the account may be used; 0: not so; -1: it cannot be told. */
int account_check(struct task *, const char *user, const char *password);

/* The process: stillframed ACCOUNT_OPTION PAM-FOLDER, with user and password on its standard input, each ended by a
 * NUL.  Its exit status. */
#define ACCOUNT_OPTION "--account"
int account_main(const char *pam_dir);
