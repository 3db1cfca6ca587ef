// SPDX-License-Identifier: Apache-2.0
#include "stillframed/startup.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/agents.h"
#include "api/blob.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/firmware.h"
#include "api/guests.h"
#include "api/host.h"
#include "api/jobs.h"
#include "api/message.h"
#include "api/power_on.h"
#include "api/role.h"
#include "api/session.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/tasks.h"
#include "api/undo.h"
#include "api/user.h"
#include "base/delay.h"
#include "base/frame.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "db/db.h"
#include "db/journal.h"
#include "stillframed/caretaker.h"
#include "stillframed/config.h"
#include "stillframed/lock.h"
#include "stillframed/timers.h"
#include "stillframed/users.h"
#include "vmm/cgroup.h"
#include "vmm/vmm.h"
#include "wire/auth.h"
#include "wire/blob.h"
#include "wire/certificate.h"
#include "wire/console.h"
#include "wire/http.h"
#include "wire/rpc.h"
#include "wire/transfer.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

/* ---- settings ---- */

static int set_vmm(struct task *t, const char *name)
{
	settings.vmm = vmm_driver(name);
	return settings.vmm ? 0 : fail(t, INVALID_VALUE, "vmm", name);
}

static int set_boot_dirs(struct task *t, const struct config *c)
{
	const char *own = str(t, "%s/boot", settings.state);
	if (dir_make(t, own, 0755) < 0 || dir_make(t, str(t, "%s/run", settings.state), 0711) < 0)
		return -1;
	list_add(t, &settings.boot_dirs, own);
	for (size_t i = 0; i < c->boot_dirs.n; i++) {
		const char *dir = c->boot_dirs.v[i];
		if (*dir != '/')
			return fail(t, INVALID_VALUE, "boot-dir", dir);
		list_add(t, &settings.boot_dirs, dir);
	}
	return 0;
}

static int set_agent_interval(struct task *t, const char *text)
{
	enum { LONGEST_S = 86400 };
	int64_t s;
	if (!text_int(text, &s) || s < 0 || s > LONGEST_S)
		return fail(t, INVALID_VALUE, "agent-interval", text);
	settings.agent_interval_s = (int)s;
	return 0;
}

static int set_times(struct task *t, const struct config *c)
{
	for (size_t i = 0; i < c->test_delays.n; i++) {
		const char *wrong = delay_scale(c->test_delays.v[i]);
		if (wrong)
			return fail(t, INVALID_VALUE, "test-delay",
				    str(t, "%s: %s", c->test_delays.v[i], wrong));
	}
	return *c->test_clock ? clock_day_from(t, c->test_clock) : 0;
}

static int set_all(struct task *t, const struct config *c)
{
	if (set_times(t, c) < 0 || dir_make(t, c->state, 0711) < 0)
		return -1;
	char *real = realpath(c->state, NULL);
	if (!real)
		return task_fail_errno(t, errno, c->state);
	settings.state = talloc_strdup(t, real);
	free(real);
	settings.version = VERSION;
	settings.pam_dir = c->pam_dir;
	settings.address = c->address;
	settings.listen = c->listen;
	settings.listen_tls = c->listen_tls;
	settings.accel = vmm_accel(t, c->accel);
	if (!settings.accel)
		return -1;
	if (set_vmm(t, c->vmm) < 0 || users_set(t, c) < 0)
		return -1;
	if (set_agent_interval(t, c->agent_interval) < 0)
		return -1;
	return set_boot_dirs(t, c);
}

/* Long chains mean many files. */
static void raise_limits(void)
{
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
}

/* ---- doors ---- */

static void serve_cli(struct task *t, struct request *r)
{
	size_t n;
	char *body = http_body(t, r, CLI_BODY_LIMIT, &n);
	if (body)
		cli_serve(t, r->fd, body, n,
			  &(struct cli_peer){ .name = r->peer,
					      .trusted = r->trusted,
					      .notes = map_get(&r->headers, FRAME_NOTES) });
}

static const struct route routes[] = {
	{ "POST", "/cli", serve_cli, false, CLI_BODY_LIMIT },
	{ "POST", "/jsonrpc", jsonrpc_serve, true, RPC_BODY_LIMIT },
	{ "POST", "/json", jsonrpc_serve, true, RPC_BODY_LIMIT }, /* its name before */
	{ "OPTIONS", "/jsonrpc", rpc_options, true },
	{ "OPTIONS", "/json", rpc_options, true },
	{ "POST", "/...", xmlrpc_serve, true, RPC_BODY_LIMIT }, /* known under several names */
	{ "OPTIONS", "/...", rpc_options, true },
	{ "GET", "/export_raw_vdi", transfer_export_vdi },
	{ "PUT", "/import_raw_vdi", transfer_import_vdi },
	{ "GET", "/blob", blob_serve_get, true },
	{ "PUT", "/blob", blob_serve_put },
	{ "CONNECT", "/console", console_serve },
	{ "GET", "/console", console_serve },
	{ "GET", "/vncsnapshot", console_snapshot },
	{ NULL },
};

/* NULL: failed. */
static const char *certificate(struct task *t, const struct config *c)
{
	const char *own = str(t, "%s/tls.pem", settings.state);
	if (*c->tls_pem)
		return c->tls_pem;
	return file_exists(own) || certificate_make(t, own) == 0 ? own : NULL;
}

static int open_doors(struct task *t, const struct config *c)
{
	const struct http_doors doors = {
		.routes = routes,
		.refused = auth_refused,
		.unix_path = str(t, "%s/xapi.sock", settings.state),
		.tcp = *c->listen ? c->listen : NULL,
		.tls = *c->listen_tls ? c->listen_tls : NULL,
		.pem = certificate(t, c),
	};
	return doors.pem ? http_serve(t, &doors) : -1;
}

/* ---- what an earlier daemon has left ---- */

static _Atomic bool settled;

/* Merges begin when the rows say who has which layers open; and variables of UEFI are read when it is known who has ended. */
static int settle(struct task *t, const char *unused)
{
	(void)unused;
	if (guests_await(t) < 0 || undo_await(t) < 0)
		return 0; /* the daemon ends */
	firmware_note_all();
	if (coalesce_open(t) < 0)
		return -1;
	atomic_store(&settled, true);
	return 0;
}

/* Guests and the journal are seen to behind the doors, each by itself.  Where none of them makes us wait, the world is in
 * order when the doors open; a guest that does not answer keeps nobody else out. */
static int settle_soon(struct task *t)
{
	int64_t until = clock_ms() + delay_ms(DELAY_START_PATIENCE);
	guests_open(t);
	undo_all(t);
	if (!jobs_start("settle", settle, "", 0))
		return fail(t, INTERNAL_ERROR, "no thread can be had");
	while (!atomic_load(&settled) && clock_ms() < until)
		delay_sleep(DELAY_START_LOOK);
	return 0;
}

/* ---- up and down ---- */

/* Without a caretaker all else goes on: another one is made later. */
static void take_care(struct task *t)
{
	if (caretaker_open(t) == 0)
		return;
	log_line(t, "there is no caretaker error=\"%s\"", task_error(t));
	task_forgive(t);
}

int startup(struct task *t, const struct config *c)
{
	raise_limits();
	if (set_all(t, c) < 0 || lock_take(t) < 0 || lock_await_caretaker(t) < 0)
		return -1;
	umask(077);
	users_share_userfaultfd(t);
	cgroup_open();
	if (db_open(t, str(t, "%s/state.db", settings.state)) < 0)
		return -1;
	take_care(t);
	if (sessions_open(t) < 0 || roles_open(t) < 0 || user_open(t) < 0 || blobs_open(t) < 0 ||
	    tasks_open(t) < 0 || messages_collect(t) < 0 || host_open(t) < 0 ||
	    devices_open(t) < 0 || agents_open(t) < 0 || settle_soon(t) < 0)
		return -1;
	if (power_on_after_boot(t) < 0 || timers_start(t) < 0 || open_doors(t, c) < 0)
		return -1;
	log_line(t, "started version=%s state=%s accel=%s", VERSION, settings.state,
		 settings.accel);
	return 0;
}

/* Where nothing is left to be undone, no guest needs a caretaker. */
static void end_database(void)
{
	struct task *t = task_new(NULL, "stop");
	bool is_quiet = !journal_rows(t, NULL)->nr;
	talloc_free(t);
	db_close();
	if (is_quiet)
		caretaker_dismiss();
}

/* A call that heeds no cancel works with all that would be closed.  The process ends under it, as
 * if it were killed, and the next start sees to what it has left. */
static void end_calls(void)
{
	if (tasks_close(0))
		return;
	log_line(NULL, "stopped while calls are at work");
	_exit(0);
}

/* In this order, behind those calls that end in time. */
static const struct ending {
	const char *what;
	void (*end)(void);
} endings[] = {
	{ "timers", timers_stop },  { "jobs", jobs_close },       { "merges", coalesce_close },
	{ "clients", http_stop },   { "calls", end_calls },       { "agents", agents_close },
	{ "guests", guests_close }, { "storage", storage_close }, { "database", end_database },
};

static const char *_Atomic ending_now = "";

/* Whatever does not end in time is left as a crash would leave it, and the next start puts it in order. */
static void *end_at_last(void *all_ended)
{
	struct pollfd p = { .fd = *(const int *)all_ended, .events = POLLIN };
	if (poll(&p, 1, delay_ms(DELAY_STOP_REST)) > 0)
		return NULL;
	log_line(NULL, "stopped in the middle of waiting_for=%s", atomic_load(&ending_now));
	_exit(0);
}

static void end_all(void)
{
	for (size_t i = 0; i < COUNT(endings); i++) {
		atomic_store(&ending_now, endings[i].what);
		endings[i].end();
	}
}

void shutdown_daemon(struct task *t)
{
	pthread_t last;
	int all_ended = eventfd(0, EFD_CLOEXEC);
	log_line(t, "stopping");
	tasks_close(delay_ms(DELAY_STOP_PATIENCE));
	if (all_ended < 0 || thread_begin(t, &last, end_at_last, &all_ended) < 0)
		_exit(0);
	end_all();
	eventfd_write(all_ended, 1);
	pthread_join(last, NULL);
	close(all_ended);
	lock_give_back();
}
