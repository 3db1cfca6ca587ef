// SPDX-License-Identifier: Apache-2.0
#include "api/guest_metrics.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <strings.h>

#include "base/task.h"
#include "db/db.h"

enum { TEXT_LIMIT = 256, NUMBER_LIMIT = 9, ADDRESSES = 16 };

/* ---- reading what was told ---- */

/* The object's text, fit to be shown; "" when there is none. */
static const char *told(const void *ctx, const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return text_plain(ctx, s ? s : "", TEXT_LIMIT);
}

static void set_if_known(const void *ctx, struct map *m, const char *key, const char *value)
{
	if (*value)
		map_set(ctx, m, key, value);
}

/* "22.04 LTS" under the names major and minor: 22 and 04.  It ends where no number follows a dot. */
static void set_numbers(const void *ctx, struct map *m, const char *s, const char *const *names)
{
	for (; *names; names++) {
		size_t n = strspn(s, "0123456789");
		if (n == 0 || n > NUMBER_LIMIT)
			return;
		map_set(ctx, m, *names, talloc_strndup(ctx, s, n));
		if (s[n] != '.')
			return;
		s += n + 1;
	}
}

/* Each feature is there when the agent obeys the command. */
static const struct feature {
	const char *command, *name;
} features[] = {
	{ "guest-shutdown", "feature-shutdown" },
	{ "guest-shutdown", "feature-poweroff" },
	{ "guest-shutdown", "feature-reboot" },
	{ "guest-fsfreeze-freeze", "feature-snapshot" },
};

static bool obeys(const json_t *info, const char *command)
{
	const json_t *c;
	size_t i;
	json_array_foreach (json_object_get(info, "supported_commands"), i, c) {
		const char *name = json_string_value(json_object_get(c, "name"));
		if (name && streq(name, command))
			return json_is_true(json_object_get(c, "enabled"));
	}
	return false;
}

bool report_may_be_frozen(const json_t *info)
{
	return obeys(info, "guest-fsfreeze-thaw") && !obeys(info, "guest-fsfreeze-freeze");
}

void report_info(const void *ctx, struct guest_report *r, const json_t *info)
{
	static const char *const names[] = { "major", "minor", "micro", NULL };
	set_numbers(ctx, &r->agent_version, told(ctx, info, "version"), names);
	for (size_t i = 0; i < COUNT(features); i++)
		if (obeys(info, features[i].command))
			map_set(ctx, &r->other, features[i].name, "1");
}

void report_os(const void *ctx, struct guest_report *r, const json_t *os)
{
	static const char *const names[] = { "major", "minor", NULL };
	const char *id = told(ctx, os, "id"), *name = told(ctx, os, "pretty-name");
	bool windows = streq(id, "mswindows");
	set_if_known(ctx, &r->os_version, "name", *name ? name : told(ctx, os, "name"));
	set_if_known(ctx, &r->os_version, "distro", windows ? "windows" : id);
	set_if_known(ctx, &r->os_version, "uname", told(ctx, os, "kernel-release"));
	/* Windows counts its versions in the kernel: 10.0. */
	set_numbers(ctx, &r->os_version, told(ctx, os, windows ? "kernel-version" : "version-id"),
		    names);
}

/* ---- addresses ---- */

static const char *device_of(const struct map *vifs, const json_t *interface)
{
	const char *mac = json_string_value(json_object_get(interface, "hardware-address"));
	for (size_t i = 0; mac && i < vifs->n; i++)
		if (strcasecmp(vifs->v[i].key, mac) == 0)
			return vifs->v[i].value;
	return NULL;
}

/* Under the next number of its kind; the first IPv4 one is also "the" address. */
static void add_address(const void *ctx, struct map *networks, const char *device,
			const json_t *address)
{
	unsigned char bytes[16];
	char text[INET6_ADDRSTRLEN], key[64];
	const char *s = json_string_value(json_object_get(address, "ip-address"));
	int family = s && strchr(s, ':') ? AF_INET6 : AF_INET;
	if (!s || inet_pton(family, s, bytes) != 1)
		return;
	inet_ntop(family, bytes, text, sizeof text);
	if (family == AF_INET) {
		snprintf(key, sizeof key, "%.20s/ip", device);
		if (!map_get(networks, key))
			map_set(ctx, networks, key, text);
	}
	for (int nr = 0; nr < ADDRESSES; nr++) {
		snprintf(key, sizeof key, "%.20s/%s/%d", device,
			 family == AF_INET ? "ipv4" : "ipv6", nr);
		if (map_get(networks, key))
			continue;
		map_set(ctx, networks, key, text);
		return;
	}
}

void report_networks(const void *ctx, struct guest_report *r, const json_t *interfaces,
		     const struct map *vifs)
{
	const json_t *interface, *address;
	size_t i, k;
	json_array_foreach (interfaces, i, interface) {
		const char *device = device_of(vifs, interface);
		if (!device)
			continue;
		json_array_foreach (json_object_get(interface, "ip-addresses"), k, address)
			add_address(ctx, &r->networks, device, address);
	}
}

/* ---- the row ---- */

static struct VM_guest_metrics_row *row_of(struct task *t, const struct VM_row *vm)
{
	return db_seek(t, VM_guest_metrics, vm->guest_metrics);
}

static struct VM_guest_metrics_row *first_row(struct task *t, struct VM_row *vm)
{
	struct VM_guest_metrics_row *m = row_new(t, VM_guest_metrics);
	vm->guest_metrics = m->row.ref;
	return db_insert(t, &m->row) < 0 || db_put(t, &vm->row) < 0 ? NULL : m;
}

/* Who is heard has the driver of the agent's port, which is one of the family; and his bus is one on which
 * devices come and go. */
int guest_metrics_heard(struct task *t, struct VM_row *vm, const struct guest_report *r)
{
	struct VM_guest_metrics_row *m = row_of(t, vm);
	if (!m)
		m = first_row(t, vm);
	if (!m)
		return -1;
	m->os_version = r->os_version;
	m->PV_drivers_version = r->agent_version;
	if (m->PV_drivers_version.n)
		map_set(m, &m->PV_drivers_version, "build", "0"); /* clients print all four */
	m->PV_drivers_detected = m->PV_drivers_up_to_date = true;
	m->networks = r->networks;
	m->other = r->other;
	m->can_use_hotplug_vbd = m->can_use_hotplug_vif = tristate_type_yes;
	m->live = true;
	m->last_updated = time_now(m);
	return db_put(t, &m->row);
}

int guest_metrics_silent(struct task *t, const struct VM_row *vm)
{
	struct VM_guest_metrics_row *m = row_of(t, vm);
	if (!m || !m->live)
		return 0;
	m->live = false;
	return db_put(t, &m->row);
}

int guest_metrics_delete(struct task *t, const struct VM_row *vm)
{
	struct VM_guest_metrics_row *m = row_of(t, vm);
	return m ? db_delete(t, &m->row) : 0;
}

int guest_metrics_forget(struct task *t, struct VM_row *vm)
{
	int result = guest_metrics_delete(t, vm);
	vm->guest_metrics = NULL_REF;
	return result;
}

int guest_metrics_copy(struct task *t, struct VM_row *to, const struct VM_row *from)
{
	struct VM_guest_metrics_row *m = row_of(t, from);
	if (!streq(to->guest_metrics, from->guest_metrics) && guest_metrics_delete(t, to) < 0)
		return -1;
	to->guest_metrics = NULL_REF;
	if (!m)
		return 0;
	struct VM_guest_metrics_row *copy = (struct VM_guest_metrics_row *)model_copy(t, &m->row);
	copy->live = false; /* nothing runs in it that could be heard */
	to->guest_metrics = copy->row.ref;
	return db_insert(t, &copy->row);
}
