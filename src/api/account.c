// SPDX-License-Identifier: Apache-2.0
#include "api/account.h"

#include <errno.h>
#include <fcntl.h>
#include <security/pam_appl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/settings.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/room.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"

enum {
	RIGHT,
	WRONG,
	TROUBLE,
};

static const char service[] = "stillframe";

/* ---- the process ---- */

struct words {
	char text[LOGIN_WORDS_LIMIT + 1]; /* which a pipe surely holds */
	const char *user, *password;
};

static bool read_words(struct words *w)
{
	size_t n = fread(w->text, 1, LOGIN_WORDS_LIMIT, stdin);
	w->text[n] = 0;
	w->user = w->text;
	w->password = w->text + strlen(w->user) + 1;
	return w->password < w->text + n;
}

/* What a module asks for without showing it is the password; PAM frees the answers. */
static int answer(int n, const struct pam_message **asked, struct pam_response **ret, void *arg)
{
	const struct words *w = arg;
	struct pam_response *all = calloc((size_t)n, sizeof *all);
	for (int i = 0; all && i < n; i++)
		if (asked[i]->msg_style == PAM_PROMPT_ECHO_OFF)
			all[i].resp = strdup(w->password);
		else if (asked[i]->msg_style == PAM_PROMPT_ECHO_ON)
			all[i].resp = strdup(w->user);
	*ret = all;
	return all ? PAM_SUCCESS : PAM_BUF_ERR;
}

/* Who is refused waits for the daemon's answer long enough. */
static void no_delay(int result, unsigned usec, void *arg)
{
	(void)result, (void)usec, (void)arg;
}

static int ask(pam_handle_t *h)
{
	static const union {
		void (*function)(int, unsigned, void *);
		const void *item;
	} delay = { no_delay };
	pam_set_item(h, PAM_FAIL_DELAY, delay.item);
	int r = pam_authenticate(h, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	return r == PAM_SUCCESS ? pam_acct_mgmt(h, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK) : r;
}

/* PAM_SYSTEM_ERR is what pam_exec calls a program's no. */
static int verdict(pam_handle_t *h, int r)
{
	switch (r) {
	case PAM_SUCCESS:
		return RIGHT;
	case PAM_ABORT:
	case PAM_BUF_ERR:
	case PAM_OPEN_ERR:
	case PAM_SERVICE_ERR:
	case PAM_AUTHINFO_UNAVAIL:
		fprintf(stderr, "%s\n", pam_strerror(h, r));
		return TROUBLE;
	default:
		return WRONG;
	}
}

int account_main(const char *pam_dir)
{
	struct words w;
	pam_handle_t *h = NULL;
	if (!read_words(&w))
		return TROUBLE;
	const struct pam_conv conv = { answer, &w };
	int r = *pam_dir ? pam_start_confdir(service, w.user, &conv, pam_dir, &h)
			 : pam_start(service, w.user, &conv, &h);
	if (r == PAM_SUCCESS)
		r = ask(h);
	int result = verdict(h, r);
	pam_end(h, r);
	return result;
}

/* ---- the daemon ---- */

/* A pipe that holds both; -1: failed. */
static int words_pipe(struct task *t, const char *user, const char *password)
{
	int pipe[2];
	if (pipe2(pipe, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	int written = io_write(t, pipe[1], user, strlen(user) + 1, delay_ms(DELAY_PASSWORD_CHECK));
	if (written == 0)
		written = io_write(t, pipe[1], password, strlen(password) + 1,
				   delay_ms(DELAY_PASSWORD_CHECK));
	close(pipe[1]);
	if (written == 0)
		return pipe[0];
	close(pipe[0]);
	return -1;
}

/* There are so many processes at a time, whoever asks. */
static struct room checks = ROOM_EMPTY;

static int enter(struct task *t)
{
	if (room_enter(t, &checks, LOGIN_CHECKS_LIMIT, delay_ms(DELAY_PASSWORD_CHECK)))
		return 0;
	return fail(t, INTERNAL_ERROR, "the password cannot be checked: too many are");
}

static int check(struct task *t, const char *user, const char *password)
{
	FD_SCOPE int words = words_pipe(t, user, password);
	struct run r = {
		.argv = RUN_ARGV("/proc/self/exe", ACCOUNT_OPTION, settings.pam_dir),
		.in = words,
		.out = -1,
		.timeout_ms = delay_ms(DELAY_PASSWORD_CHECK),
	};
	if (words < 0 || run(t, &r) < 0)
		return -1;
	if (r.ret_status <= WRONG)
		return r.ret_status == RIGHT;
	return fail(t, INTERNAL_ERROR, str(t, "the password cannot be checked: %s", r.ret_err));
}

int account_check(struct task *t, const char *user, const char *password)
{
	if (strlen(user) + strlen(password) + 2 > LOGIN_WORDS_LIMIT)
		return 0;
	if (enter(t) < 0)
		return -1;
	int result = check(t, user, password);
	room_leave(&checks);
	return result;
}
