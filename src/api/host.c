// SPDX-License-Identifier: Apache-2.0
#include "api/host.h"

#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>

#include "api/call.h"
#include "api/console.h"
#include "api/host_facts.h"
#include "api/pif.h"
#include "api/settings.h"
#include "api/sm.h"
#include "api/storage.h"
#include "api/templates.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/task.h"
#include "db/db.h"

/* The API that is spoken: the version clients look at to know which calls there are. */
enum { API_MAJOR = 2, API_MINOR = 21 };

struct settings settings;

static char host_ref[64];

const char *this_host(void)
{
	return host_ref;
}

void set_this_host(const char *ref)
{
	snprintf(host_ref, sizeof host_ref, "%s", ref);
}

static int open_host(struct task *t)
{
	DB_SCOPE(t);
	struct host_row *host = *(struct host_row **)db_find(t, &class_host, NULL, NULL);
	bool known = host != NULL;
	if (!known) {
		struct utsname u;
		uname(&u);
		host = row_new(t, host);
		host->name_label = host->hostname = talloc_strdup(host, u.nodename);
		host->address = host->address_found;
	}
	host->enabled = true;
	host->API_version_major = API_MAJOR;
	host->API_version_minor = API_MINOR;
	host->API_version_vendor = "Stillframe";
	host_facts(t, host);
	if ((known ? db_put(t, &host->row) : db_insert(t, &host->row)) < 0)
		return -1;
	set_this_host(host->row.ref);
	return host_cpus_look(t) < 0 ? -1 : db_commit(t);
}

/* An address that an operator has set stays. */
static int open_address(struct task *t)
{
	const char *found = host_address(t);
	DB_SCOPE(t);
	struct host_row *host = db_get(t, host, this_host());
	if (!host)
		return -1;
	if (streq(host->address, host->address_found) || *settings.address)
		host->address = found;
	host->address_found = found;
	if (db_put(t, &host->row) < 0 || consoles_relocate(t) < 0)
		return -1;
	return db_commit(t);
}

/* ---- how it is ---- */

/* Bytes in a line of /proc/meminfo. */
static int64_t meminfo(struct task *t, const char *key)
{
	const char *text = file_read(t, "/proc/meminfo", 1 << 16);
	const char *line = text ? strstr(text, key) : NULL;
	return line ? strtoll(line + strlen(key), NULL, 10) << 10 : 0;
}

static int64_t free_memory(struct task *t)
{
	return meminfo(t, "MemAvailable:");
}

static int open_metrics(struct task *t)
{
	DB_SCOPE(t);
	struct host_row *host = db_get(t, host, this_host());
	struct host_metrics_row *m = db_seek(t, host_metrics, host->metrics);
	bool known = m;
	if (!known)
		m = row_new(t, host_metrics);
	host->metrics = m->row.ref;
	m->live = true;
	m->memory_total = meminfo(t, "MemTotal:");
	m->memory_free = free_memory(t);
	m->last_updated = time_now(m);
	if ((known ? db_put(t, &m->row) : db_insert(t, &m->row)) < 0 || db_put(t, &host->row) < 0)
		return -1;
	return db_commit(t);
}

/* Small changes are no news. */
void host_look(struct task *t)
{
	enum { PARTS = 100 };
	DB_SCOPE(t);
	const struct host_row *host = db_seek(t, host, this_host());
	struct host_metrics_row *m = host ? db_seek(t, host_metrics, host->metrics) : NULL;
	int64_t now = free_memory(t);
	if (!m || llabs(m->memory_free - now) < m->memory_total / PARTS)
		return;
	m->memory_free = now;
	m->last_updated = time_now(m);
	if (db_put(t, &m->row) == 0)
		db_commit(t);
}

static int open_pool(struct task *t)
{
	DB_SCOPE(t);
	if (*db_find(t, &class_pool, NULL, NULL))
		return 0;
	struct pool_row *pool = row_new(t, pool);
	pool->master = this_host();
	if (db_insert(t, &pool->row) < 0)
		return -1;
	return db_commit(t);
}

static int open_network(struct task *t)
{
	DB_SCOPE(t);
	if (*db_find(t, &class_network, NULL, NULL))
		return 0;
	struct network_row *n = row_new(t, network);
	n->name_label = "User-mode network";
	n->name_description = "Each VM behind an address translation of its own: it reaches out, "
			      "nobody reaches in";
	n->MTU = 1500;
	n->managed = true;
	map_set(n, &n->other_config, "automatic",
		"true"); /* clients give new VMs an interface there */
	if (db_insert(t, &n->row) < 0)
		return -1;
	return db_commit(t);
}

/* Only where the pool never had a default SR: one that the user destroyed does not come back. */
static int open_local_sr(struct task *t)
{
	const char *location = str(t, "%s/sr", settings.state);
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	if (!ref_is_null(pool->default_SR))
		return 0;
	if (dir_make(t, location, 0700) < 0)
		return -1;
	struct SR_create a = {
		.name_label = "Local storage",
		.name_description = "Disks as files on this host",
		.type = "file",
		.content_type = "user",
	};
	map_set(t, &a.device_config, "location", location);
	return call(t, SR_create, &a);
}

int host_open(struct task *t)
{
	if (open_host(t) < 0 || open_metrics(t) < 0 || sm_open(t) < 0 || open_pool(t) < 0 ||
	    open_network(t) < 0 || templates_open(t) < 0)
		return -1;
	pifs_look(t);
	if (open_address(t) < 0)
		return -1;
	storage_open(t);
	return open_local_sr(t);
}

/* ---- calls ---- */

int host_get_servertime(struct task *t, struct host_get_servertime *a)
{
	if (!db_get(t, host, a->host))
		return -1;
	a->result = time_now(t);
	return 0;
}

int host_get_server_localtime(struct task *t, struct host_get_server_localtime *a)
{
	time_t now = (time_t)clock_day_s();
	struct tm tm;
	char text[32];
	if (!db_get(t, host, a->host))
		return -1;
	localtime_r(&now, &tm);
	strftime(text, sizeof text, "%Y%m%dT%H:%M:%S", &tm);
	a->result = talloc_strdup(t, text);
	return 0;
}

int host_compute_free_memory(struct task *t, struct host_compute_free_memory *a)
{
	if (!db_get(t, host, a->host))
		return -1;
	a->result = free_memory(t);
	return 0;
}

int host_list_methods(struct task *t, struct host_list_methods *a)
{
	(void)a;
	return fail(t, NOT_IMPLEMENTED, "list_method");
}

int host_call_plugin(struct task *t, struct host_call_plugin *a)
{
	return db_get(t, host, a->host) ? fail(t, XENAPI_MISSING_PLUGIN, a->plugin) : -1;
}
