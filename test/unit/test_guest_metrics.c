// SPDX-License-Identifier: Apache-2.0
/* test_guest_metrics.c -- what agents say, as fields: of good ones all that is known, of bad ones nothing
 * that could do harm. */
#include "api/guest_metrics.h"

#include "base/json.h"
#include "base/task.h"
#include "unit/check.h"

static json_t *json(struct task *t, const char *text)
{
	json_t *j = json_read(t, text, strlen(text), 16);
	CHECK(j);
	return j;
}

static bool has(const struct map *m, const char *key, const char *value)
{
	const char *found = map_get(m, key);
	if (!found || !streq(found, value))
		fprintf(stderr, "%s: %s\n", key, found ? found : "(not there)");
	return found && streq(found, value);
}

static struct map two_vifs(struct task *t)
{
	struct map vifs = { 0 };
	map_set(t, &vifs, "52:54:00:aa:bb:01", "0");
	map_set(t, &vifs, "52:54:00:AA:BB:02", "3");
	return vifs;
}

static void debian(struct task *t)
{
	struct guest_report r = { 0 };
	report_info(t, &r,
		    json(t, "{\"version\": \"7.2.22\", \"supported_commands\": ["
			    "{\"name\": \"guest-ping\", \"enabled\": true},"
			    "{\"name\": \"guest-shutdown\", \"enabled\": true}]}"));
	report_os(t, &r,
		  json(t, "{\"id\": \"ubuntu\", \"pretty-name\": \"Ubuntu 22.04.3 LTS\", \"name\": "
			  "\"Ubuntu\", \"version-id\": \"22.04\", \"kernel-release\": "
			  "\"6.1.0-13-amd64\", \"machine\": \"x86_64\"}"));
	CHECK(r.agent_version.n == 3 && has(&r.agent_version, "major", "7") &&
	      has(&r.agent_version, "minor", "2") && has(&r.agent_version, "micro", "22"));
	CHECK(r.other.n == 3 && has(&r.other, "feature-shutdown", "1") &&
	      has(&r.other, "feature-poweroff", "1") && has(&r.other, "feature-reboot", "1"));
	CHECK(r.os_version.n == 5 && has(&r.os_version, "name", "Ubuntu 22.04.3 LTS") &&
	      has(&r.os_version, "distro", "ubuntu") && has(&r.os_version, "major", "22") &&
	      has(&r.os_version, "minor", "04") && has(&r.os_version, "uname", "6.1.0-13-amd64"));
}

static void windows(struct task *t)
{
	struct guest_report r = { 0 };
	report_os(t, &r,
		  json(t,
		       "{\"id\": \"mswindows\", \"name\": \"Microsoft Windows\", "
		       "\"pretty-name\": \"Windows Server 2022 Standard\", \"version-id\": "
		       "\"2022\", \"kernel-version\": \"10.0\", \"kernel-release\": \"20348\"}"));
	CHECK(has(&r.os_version, "distro", "windows") && has(&r.os_version, "major", "10") &&
	      has(&r.os_version, "minor", "0") && has(&r.os_version, "uname", "20348"));
}

static void addresses(struct task *t)
{
	struct guest_report r = { 0 };
	struct map vifs = two_vifs(t);
	report_networks(t, &r,
			json(t,
			     "[{\"name\": \"lo\", \"hardware-address\": \"00:00:00:00:00:00\", "
			     "\"ip-addresses\": [{\"ip-address\": \"127.0.0.1\"}]},"
			     "{\"name\": \"eth0\", \"hardware-address\": \"52:54:00:aa:bb:02\", "
			     "\"ip-addresses\": ["
			     "{\"ip-address-type\": \"ipv6\", \"ip-address\": \"FE80::1\"},"
			     "{\"ip-address-type\": \"ipv4\", \"ip-address\": \"10.0.0.7\", "
			     "\"prefix\": 8},"
			     "{\"ip-address-type\": \"ipv4\", \"ip-address\": \"10.0.0.8\"}]},"
			     "{\"name\": \"br0\", \"hardware-address\": \"52:54:00:aa:bb:02\", "
			     "\"ip-addresses\": [{\"ip-address\": \"10.0.0.9\"}]},"
			     "{\"name\": \"eth1\", \"hardware-address\": \"52:54:00:aa:bb:01\"}]"),
			&vifs);
	CHECK(r.networks.n == 5 && has(&r.networks, "3/ip", "10.0.0.7") &&
	      has(&r.networks, "3/ipv4/0", "10.0.0.7") &&
	      has(&r.networks, "3/ipv4/1", "10.0.0.8") &&
	      has(&r.networks, "3/ipv4/2", "10.0.0.9") && has(&r.networks, "3/ipv6/0", "fe80::1"));
}

static void liars(struct task *t)
{
	static const char *const says[] = {
		"[]",
		"{}",
		"[[]]",
		"[1, \"x\", null, {}]",
		"{\"version\": 5, \"supported_commands\": {\"name\": \"guest-shutdown\"}, \"id\": "
		"[]}",
		"{\"version\": \"99999999999.1\", \"supported_commands\": [5, {\"name\": "
		"\"guest-shutdown\", \"enabled\": 1}, {\"name\": [], \"enabled\": true}]}",
		"{\"version\": \"x7.2\", \"supported_commands\": [{\"name\": \"guest-shutdown\", "
		"\"enabled\": false}, {\"name\": \"guest-shutdown\", \"enabled\": true}]}",
		"[{\"hardware-address\": \"52:54:00:aa:bb:01\", \"ip-addresses\": "
		"[{\"ip-address\": "
		"\"10.0.0.1; rm -rf /\"}, {\"ip-address\": \"\"}, {\"ip-address\": 7}, 7, "
		"{\"ip-address\": \":\"}]}, {\"hardware-address\": 1}, {\"hardware-address\": "
		"\"\"}]",
	};
	struct map vifs = two_vifs(t);
	struct guest_report r = { 0 };
	for (size_t i = 0; i <= COUNT(says); i++) {
		const json_t *j = i < COUNT(says) ? json(t, says[i]) : NULL;
		report_info(t, &r, j);
		report_os(t, &r, j);
		report_networks(t, &r, j, &vifs);
		CHECK(!r.agent_version.n && !r.os_version.n && !r.networks.n && !r.other.n);
	}
}

static void long_ones(struct task *t)
{
	struct map vifs = two_vifs(t);
	struct guest_report r = { 0 };
	char *name = talloc_strdup(t, "\\u001b[31m");
	for (int i = 0; i < 1000; i++)
		name = talloc_strdup_append(name, "\\u20ac");
	report_os(t, &r, json(t, str(t, "{\"pretty-name\": \"%s\", \"id\": \"a\\u0007b\"}", name)));
	const char *stored = map_get(&r.os_version, "name");
	CHECK(stored && strlen(stored) <= 256 && strlen(stored) > 250 && text_is_utf8(stored));
	CHECK(starts_with(stored, "[31m\xe2\x82\xac") && has(&r.os_version, "distro", "ab"));

	char *all =
		talloc_strdup(t,
			      "[{\"hardware-address\": \"52:54:00:aa:bb:01\", \"ip-addresses\": [");
	for (int i = 0; i < 1000; i++)
		all = talloc_asprintf_append(all, "%s{\"ip-address\": \"10.0.%d.%d\"}",
					     i ? "," : "", i / 256, i % 256);
	report_networks(t, &r, json(t, talloc_strdup_append(all, "]}]")), &vifs);
	CHECK(r.networks.n == 17 && has(&r.networks, "0/ipv4/15", "10.0.0.15"));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	debian(t);
	windows(t);
	addresses(t);
	liars(t);
	long_ones(t);
	talloc_free(t);
	return 0;
}
