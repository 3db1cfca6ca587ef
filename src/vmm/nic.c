// SPDX-License-Identifier: Apache-2.0
#include "vmm/nic.h"

#include <arpa/inet.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/ip.h"

enum { ATTRIBUTE = 64 };

/* ---- ip(8) ---- */

static const json_t *ask_ip(struct task *t, const char *family, const char *object,
			    const char *which)
{
	return ip_ask(t, RUN_ARGV("ip", "-json", family, object, "show", which));
}

static const json_t *find(const json_t *all, const char *key, const char *value)
{
	size_t i;
	json_t *one;
	json_array_foreach (all, i, one)
		if (*value && streq(ip_text(one, key), value))
			return one;
	return NULL;
}

/* ---- /sys/class/net ---- */

static const char *sys_path(struct task *t, const char *name, const char *attribute)
{
	return str(t, "/sys/class/net/%s/%s", name, attribute);
}

/* "" when it has none, or none now: of a link that is down some cannot be read. */
static const char *attribute(struct task *t, const char *name, const char *which)
{
	struct task *own = task_new(t, t->name);
	const char *s = file_read(own, sys_path(own, name, which), ATTRIBUTE);
	return s ? talloc_strndup(t, s, strcspn(s, "\n")) : "";
}

static int64_t number(struct task *t, const char *name, const char *which)
{
	int64_t n;
	return text_int(attribute(t, name, which), &n) && n > 0 ? n : 0;
}

/* The last part of a link's target. */
static const char *target(struct task *t, const char *name, const char *which)
{
	char to[PATH_MAX];
	ssize_t n = readlink(sys_path(t, name, which), to, sizeof to - 1);
	to[n > 0 ? n : 0] = 0;
	const char *slash = strrchr(to, '/');
	return talloc_strdup(t, slash ? slash + 1 : to);
}

/* ---- one of them ---- */

static const char *mask_of(struct task *t, int64_t bits)
{
	struct in_addr a = { .s_addr = bits > 0 ? htonl(UINT32_MAX << (32 - bits)) : 0 };
	char text[INET_ADDRSTRLEN];
	return talloc_strdup(t, inet_ntop(AF_INET, &a, text, sizeof text));
}

static void set_addresses(struct task *t, struct nic *n, const json_t *link)
{
	size_t i;
	json_t *a;
	json_array_foreach (json_object_get(link, "addr_info"), i, a) {
		const char *local = ip_text(a, "local");
		int64_t bits = json_integer_value(json_object_get(a, "prefixlen"));
		if (streq(ip_text(a, "family"), "inet6")) {
			list_add(t, &n->ipv6, str(t, "%s/%lld", local, (long long)bits));
			n->is_autoconf |= json_is_true(json_object_get(a, "dynamic"));
		} else if (!*n->ip) {
			n->ip = talloc_strdup(t, local);
			n->netmask = mask_of(t, bits);
			n->is_leased = json_is_true(json_object_get(a, "dynamic"));
		}
	}
}

static const char *gateway(struct task *t, const json_t *routes, const char *through)
{
	return talloc_strdup(t, ip_text(find(routes, "dev", through), "gateway"));
}

struct host {
	const json_t *links, *routes, *routes6;
};

static struct nic look(struct task *t, const struct host *h, const json_t *link)
{
	const char *name = talloc_strdup(t, ip_text(link, "ifname")),
		   *bridge = talloc_strdup(t, ip_text(link, "master"));
	struct nic n = {
		.name = name,
		.address = talloc_strdup(t, ip_text(link, "address")),
		.mtu = json_integer_value(json_object_get(link, "mtu")),
		.is_hardware = file_exists(sys_path(t, name, "device")),
		.is_up = ip_has_flag(link, "UP"),
		.has_carrier = ip_has_flag(link, "LOWER_UP"),
		.bridge = ip_is_kind(find(h->links, "ifname", bridge), "bridge") ? bridge : "",
		.ip = "",
		.netmask = "",
		.speed = number(t, name, "speed"),
		.is_duplex = streq(attribute(t, name, "duplex"), "full"),
		.vendor = attribute(t, name, "device/vendor"),
		.device = attribute(t, name, "device/device"),
		.pci = target(t, name, "device"),
	};
	const char *through = *n.bridge ? n.bridge : name;
	set_addresses(t, &n, find(h->links, "ifname", through));
	n.gateway = gateway(t, h->routes, through);
	n.gateway6 = gateway(t, h->routes6, through);
	n.is_default = *n.gateway || *n.gateway6;
	return n;
}

int nics_look(struct task *t, struct nics *ret)
{
	struct host h = { .links = ask_ip(t, "-details", "address", NULL) };
	size_t i;
	json_t *link;
	*ret = (struct nics){ 0 };
	h.routes = h.links ? ask_ip(t, "-4", "route", "default") : NULL;
	h.routes6 = h.routes ? ask_ip(t, "-6", "route", "default") : NULL;
	if (!h.routes6)
		return -1;
	json_array_foreach (h.links, i, link) {
		struct nic n = look(t, &h, link);
		if (ip_is_kind(link, "tun") || !(n.is_hardware || *n.bridge))
			continue;
		ret->v = talloc_realloc(t, ret->v, struct nic, ret->n + 1);
		ret->v[ret->n++] = n;
	}
	return 0;
}
