// SPDX-License-Identifier: Apache-2.0
#include "stillframed/startup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
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
#include "cli/cli.h"
#include "db/db.h"
#include "stillframed/config.h"
#include "stillframed/timers.h"
#include "stillframed/users.h"
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
	static const struct vmm_driver *const drivers[] = { &vmm_qemu, &vmm_fake };
	for (size_t i = 0; i < COUNT(drivers); i++)
		if (streq(drivers[i]->name, name))
			settings.vmm = drivers[i];
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

/* ---- one daemon a folder ---- */

static int lock_fd = -1;

/* A process's own: what a daemon had forked when it was killed does not keep it (as it would an flock() until its exec).
 * So the file is opened once only. */
static int take_lock(struct task *t)
{
	const char *path = str(t, "%s/lock", settings.state);
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (lock_fd < 0)
		return task_fail_errno(t, errno, path);
	if (fcntl(lock_fd, F_SETLK, &l) < 0)
		return fail(t, INTERNAL_ERROR,
			    str(t, "%s: another stillframed is using this folder", settings.state));
	if (ftruncate(lock_fd, 0) < 0 || dprintf(lock_fd, "%d\n", getpid()) < 0)
		return task_fail_errno(t, errno, path);
	return 0;
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

/* ---- up and down ---- */

int startup(struct task *t, const struct config *c)
{
	raise_limits();
	if (set_all(t, c) < 0 || take_lock(t) < 0)
		return -1;
	umask(077);
	users_share_userfaultfd(t);
	if (db_open(t, str(t, "%s/state.db", settings.state)) < 0 || sessions_open(t) < 0 ||
	    roles_open(t) < 0 || user_open(t) < 0 || blobs_open(t) < 0 || tasks_open(t) < 0 ||
	    messages_collect(t) < 0 || host_open(t) < 0 || devices_open(t) < 0 ||
	    agents_open(t) < 0 || guests_open(t) < 0)
		return -1;
	undo_all(t);
	firmware_note_all();
	if (coalesce_open(t) < 0)
		return -1;
	if (power_on_after_boot(t) < 0 || timers_start(t) < 0 || open_doors(t, c) < 0)
		return -1;
	log_line(t, "started version=%s state=%s accel=%s", VERSION, settings.state,
		 settings.accel);
	return 0;
}

/* A call that heeds no cancel works with all that would be closed.  The process ends under it, as
 * if it were killed, and the next start sees to what it has left. */
static void leave(struct task *t)
{
	log_line(t, "stopped while calls are at work");
	_exit(0);
}

void shutdown_daemon(struct task *t)
{
	log_line(t, "stopping");
	timers_stop();
	coalesce_close();
	tasks_close(delay_ms(DELAY_STOP_PATIENCE));
	jobs_close();
	http_stop();
	if (!tasks_close(0))
		leave(t);
	agents_close();
	guests_close();
	storage_close();
	db_close();
	close(lock_fd);
}
