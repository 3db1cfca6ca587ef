// SPDX-License-Identifier: Apache-2.0
#include "api/host_facts.h"

#include <stdlib.h>
#include <sys/utsname.h>

#include "api/host.h"
#include "api/settings.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "db/db.h"

enum { FILE_LIMIT = 4 << 20 }; /* /proc/cpuinfo of 1,000 processors with all their flags */

static const char *read_quietly(struct task *t, const char *path)
{
	struct task *own = task_new(t, t->name);
	const char *text = file_read(own, path, FILE_LIMIT);
	return text ? text : "";
}

/* ---- processors ---- */

/* A paragraph of /proc/cpuinfo. */
struct cpu {
	struct map lines; /* "model name" -> ... */
};

struct cpus {
	size_t n;
	struct cpu *v;
};

static const char *line_of(const struct cpu *c, const char *key)
{
	const char *value = map_get(&c->lines, key);
	return value ? value : "";
}

static struct cpus read_cpus(struct task *t)
{
	struct cpus all = { .v = talloc_zero_array(t, struct cpu, 1) };
	struct list lines = list_split(t, read_quietly(t, "/proc/cpuinfo"), '\n');
	for (size_t i = 0; i < lines.n; i++) {
		char *line = talloc_strdup(t, lines.v[i]), *colon = strchr(line, ':');
		if (!colon)
			continue;
		*colon = 0;
		if (streq(text_trim(line), "processor")) {
			all.v = talloc_realloc(t, all.v, struct cpu, all.n + 1);
			all.v[all.n++] = (struct cpu){ 0 };
		}
		if (all.n)
			map_set(t, &all.v[all.n - 1].lines, text_trim(line), text_trim(colon + 1));
	}
	return all;
}

static size_t count_sockets(struct task *t, const struct cpus *all)
{
	struct list sockets = { 0 };
	for (size_t i = 0; i < all->n; i++)
		list_put(t, &sockets, line_of(&all->v[i], "physical id"));
	return sockets.n;
}

/* Key of cpu_info, and what the kernel calls it. */
static const struct {
	const char *key, *line;
} cpu_keys[] = {
	{ "vendor", "vendor_id" },  { "speed", "cpu MHz" }, { "modelname", "model name" },
	{ "family", "cpu family" }, { "model", "model" },   { "stepping", "stepping" },
	{ "flags", "flags" },
};

static void set_cpu_info(struct task *t, struct host_row *host)
{
	struct cpus all = read_cpus(t);
	const struct cpu none = { 0 }, *first = all.n ? &all.v[0] : &none;
	host->cpu_info = (struct map){ 0 };
	map_set(host, &host->cpu_info, "cpu_count", str(t, "%zu", all.n));
	map_set(host, &host->cpu_info, "socket_count", str(t, "%zu", count_sockets(t, &all)));
	for (size_t i = 0; i < COUNT(cpu_keys); i++)
		map_set(host, &host->cpu_info, cpu_keys[i].key, line_of(first, cpu_keys[i].line));
}

static struct host_cpu_row *cpu_row(struct task *t, const struct cpu *c, int64_t number)
{
	struct host_cpu_row *row = row_new(t, host_cpu);
	row->host = this_host();
	row->number = number;
	row->vendor = line_of(c, "vendor_id");
	row->speed = strtoll(line_of(c, "cpu MHz"), NULL, 10);
	row->modelname = line_of(c, "model name");
	row->family = strtoll(line_of(c, "cpu family"), NULL, 10);
	row->model = strtoll(line_of(c, "model"), NULL, 10);
	row->stepping = line_of(c, "stepping");
	row->flags = line_of(c, "flags");
	return row;
}

static bool is_told(struct task *t, const struct cpus *all)
{
	size_t n = 0;
	DB_ALL (t, host_cpu, row) {
		const struct cpu *c = row->number < (int64_t)all->n ? &all->v[row->number] : NULL;
		if (!c || !streq(row->modelname, line_of(c, "model name")) ||
		    !streq(row->flags, line_of(c, "flags")))
			return false;
		n++;
	}
	return n == all->n;
}

/* Their speed changes all the time, and is no reason to make new ones. */
int host_cpus_look(struct task *t)
{
	struct cpus all = read_cpus(t);
	if (is_told(t, &all))
		return 0;
	if (db_delete_all(t, &class_host_cpu, "host", this_host()) < 0)
		return -1;
	for (size_t i = 0; i < all.n; i++)
		if (db_insert(t, &cpu_row(t, &all.v[i], (int64_t)i)->row) < 0)
			return -1;
	return 0;
}

/* ---- software and firmware ---- */

/* Clients tell by `xapi` and `platform_version` which calls there are; the rest is shown to people. */
static void set_software(struct task *t, struct host_row *host)
{
	struct utsname u;
	uname(&u);
	const struct pair said[] = {
		{ "product_brand", "Stillframe" },
		{ "product_version", settings.version },
		{ "product_version_text", settings.version },
		{ "platform_name", "Stillframe" },
		{ "platform_version", settings.version },
		{ "build_number", settings.version },
		{ "xapi", str(t, "%lld.%lld", (long long)host->API_version_major,
			      (long long)host->API_version_minor) },
		{ "network_backend", "bridge" },
		{ "hostname", u.nodename },
		{ "linux", u.release },
		{ "accelerator", settings.accel },
	};
	host->software_version = (struct map){ 0 };
	for (size_t i = 0; i < COUNT(said); i++)
		map_set(host, &host->software_version, said[i].key, said[i].value);
}

/* XenServer's names for: guests of 32 and 64 bit that know nothing of us. */
static void set_capabilities(struct host_row *host)
{
	static const char *const all[] = { "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64" };
	host->capabilities = (struct list){ 0 };
	for (size_t i = 0; i < COUNT(all); i++)
		list_add(host, &host->capabilities, all[i]);
}

/* Key of bios_strings, and the file of /sys/class/dmi/id; a machine that does not tell has "". */
static const struct {
	const char *key, *file;
} bios_keys[] = {
	{ "bios-vendor", "bios_vendor" },
	{ "bios-version", "bios_version" },
	{ "system-manufacturer", "sys_vendor" },
	{ "system-product-name", "product_name" },
	{ "system-version", "product_version" },
	{ "system-serial-number", "product_serial" },
	{ "baseboard-manufacturer", "board_vendor" },
	{ "baseboard-product-name", "board_name" },
	{ "baseboard-version", "board_version" },
	{ "baseboard-serial-number", "board_serial" },
};

static void set_bios(struct task *t, struct host_row *host)
{
	host->bios_strings = (struct map){ 0 };
	for (size_t i = 0; i < COUNT(bios_keys); i++) {
		const char *path = str(t, "/sys/class/dmi/id/%s", bios_keys[i].file);
		char *text = talloc_strdup(t, read_quietly(t, path));
		text[strcspn(text, "\n")] = 0;
		map_set(host, &host->bios_strings, bios_keys[i].key, text_trim(text));
	}
}

/* The line `btime` of /proc/stat: seconds since 1970. */
static const char *boot_time(struct task *t)
{
	const char *line = strstr(read_quietly(t, "/proc/stat"), "\nbtime ");
	return str(t, "%lld", line ? strtoll(line + strlen("\nbtime "), NULL, 10) : 0LL);
}

void host_facts(struct task *t, struct host_row *host)
{
	set_software(t, host);
	set_capabilities(host);
	set_cpu_info(t, host);
	set_bios(t, host);
	map_set(host, &host->other_config, "boot_time", boot_time(t));
	map_set(host, &host->other_config, "agent_start_time",
		str(t, "%lld", (long long)clock_day_s()));
}

/* ---- where clients find it ---- */

/* ADDR of "ADDR:PORT", without brackets. */
static const char *address_in(struct task *t, const char *door)
{
	const char *colon = strrchr(door, ':');
	char *s = talloc_strndup(t, door, colon ? (size_t)(colon - door) : 0);
	size_t n = strlen(s);
	if (n > 1 && s[0] == '[' && s[n - 1] == ']')
		return talloc_strndup(t, s + 1, n - 2);
	return s;
}

static bool is_any(const char *address)
{
	return !*address || streq(address, "0.0.0.0") || streq(address, "::");
}

static const char *outside(struct task *t)
{
	DB_EACH (t, PIF, p, "management", "true") {
		if (*p->IP)
			return p->IP;
		if (p->IPv6.n) /* with "/64" behind it */
			return talloc_strndup(t, p->IPv6.v[0], strcspn(p->IPv6.v[0], "/"));
	}
	return "127.0.0.1";
}

const char *host_address(struct task *t)
{
	const char *doors[] = { settings.listen_tls, settings.listen };
	if (*settings.address)
		return settings.address;
	for (size_t i = 0; i < COUNT(doors); i++)
		if (*doors[i] && !is_any(address_in(t, doors[i])))
			return address_in(t, doors[i]);
	return outside(t);
}

const char *host_url(struct task *t, const char *address)
{
	static const char usual[] = ":443";
	const char *door = *settings.listen_tls ? settings.listen_tls : settings.listen;
	const char *scheme = *settings.listen_tls || !*settings.listen ? "https" : "http";
	const char *port = strrchr(door, ':');
	bool v6 = strchr(address, ':');
	return str(t, "%s://%s%s%s%s", scheme, v6 ? "[" : "", address, v6 ? "]" : "",
		   !port || (streq(scheme, "https") && streq(port, usual)) ? "" : port);
}
