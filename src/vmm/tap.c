// SPDX-License-Identifier: Apache-2.0
#include "vmm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/ip.h"

/* ---- links ---- */

static int run_ip(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = delay_ms(DELAY_IP) };
	return run_ok(t, &r);
}
#define ip_link(t, ...) run_ip((t), RUN_ARGV("ip", "link", __VA_ARGS__))

bool link_exists(const char *name)
{
	return if_nametoindex(name) != 0;
}

int link_look(struct task *t, const char *name, struct link *ret)
{
	*ret = (struct link){ .exists = link_exists(name) };
	if (!ret->exists)
		return 0;
	const json_t *all =
		ip_ask(t, RUN_ARGV("ip", "-details", "-json", "link", "show", "dev", name));
	if (!all)
		return -1;
	const json_t *link = json_array_get(all, 0);
	ret->is_bridge = ip_is_kind(link, "bridge");
	ret->is_up = ip_has_flag(link, "UP");
	ret->address = ip_text(link, "address");
	ret->mtu = json_integer_value(json_object_get(link, "mtu"));
	return 0;
}

/* ---- taps ---- */

/* What is said where there are no taps: no module, no node, another node in its place, no rights. */
static bool means_never(int err)
{
	return err == ENODEV || err == ENXIO || err == ENOENT || err == ENOTTY || err == EACCES ||
	       err == EPERM;
}

/* A process that was forked meanwhile has the descriptors of a former tap until its exec. */
static int make_tap(struct task *t, int fd, const char *name)
{
	struct ifreq r = { .ifr_flags =
				   (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL) };
	snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
	for (int64_t end = clock_ms() + delay_ms(DELAY_TAP_BUSY); ioctl(fd, TUNSETIFF, &r) < 0;) {
		int err = errno;
		if (err != EBUSY || clock_ms() > end)
			return err;
		if (task_wait(t, -1, 0, delay_ms(DELAY_TAP_LOOK)) < 0)
			return err;
	}
	return 0;
}

int tap_open(struct task *t, const char *name, int *ret, const char **ret_why)
{
	FD_SCOPE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int err = fd < 0 ? errno : make_tap(t, fd, name);
	if (means_never(err)) {
		*ret_why = str(t, "/dev/net/tun: %s", strerror(err));
		return 0;
	}
	if (err)
		return task_fail_errno(t, err, str(t, "tap device %s", name));
	*ret = fd;
	fd = -1;
	return 1;
}

bool tap_possible(void)
{
	struct __user_cap_header_struct self = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct has[_LINUX_CAPABILITY_U32S_3] = { 0 };
	FD_SCOPE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 && syscall(SYS_capget, &self, has) == 0 &&
	       has[CAP_TO_INDEX(CAP_NET_ADMIN)].effective & CAP_TO_MASK(CAP_NET_ADMIN);
}

/* A bridge without an address of its own takes the lowest of its members': with fe in front no
 * tap's is that, and the host keeps its address.  It is never the guest's, which may begin so, too: what is
 * for a member's address the bridge gives to the host, and the guest would hear nothing. */
static const char *tap_address(struct task *t, const char *guest_mac)
{
	char *address = talloc_asprintf(t, "fe%s", guest_mac + 2);
	char *maker = &address[3]; /* guests that were numbered differ behind it */
	if (streq(address, guest_mac))
		*maker = *maker == 'f' ? '0' : 'f';
	return address;
}

int tap_join(struct task *t, const char *name, const char *bridge, const char *guest_mac,
	     int64_t mtu)
{
	return ip_link(t, "set", "dev", name, "address", tap_address(t, guest_mac), "mtu",
		       str(t, "%lld", (long long)mtu), "master", bridge, "up");
}

int tap_mtu(int fd)
{
	struct ifreq r = { 0 };
	FD_SCOPE int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0 || ioctl(fd, TUNGETIFF, &r) < 0 || ioctl(s, SIOCGIFMTU, &r) < 0)
		return 0;
	return r.ifr_mtu;
}

/* ---- bridges ---- */

static bool is_ours(const struct link *l, const struct bridge *b)
{
	return l->exists && l->is_bridge && streq(l->address, b->address);
}

/* The address comes with the bridge, so nobody ever sees one of ours without it.  Two may try at once:
 * who comes second finds it made. */
static int make_bridge(struct task *t, const struct bridge *b, struct link *ret)
{
	struct task *try = task_new(t, t->name);
	int made = ip_link(try, "add", "name", b->name, "address", b->address, "type", "bridge");
	if (link_look(t, b->name, ret) < 0)
		return -1;
	if (made < 0 && !ret->exists)
		return task_fail_params(t, try->code, try->params);
	return 0;
}

/* A bridge is no invitation to talk to the host itself, which IPv6 would bring along unasked. */
static void keep_host_out(struct task *t, const char *bridge)
{
	const char *path = str(t, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", bridge);
	FD_SCOPE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return; /* the kernel has no IPv6 */
	if (fd < 0 || write(fd, "1", 1) != 1)
		log_line(t, "IPv6 of the host left on bridge=%s error=\"%s\"", bridge,
			 strerror(errno));
}

int bridge_make(struct task *t, const struct bridge *b)
{
	struct link l;
	if (link_look(t, b->name, &l) < 0 || (!l.exists && make_bridge(t, b, &l) < 0))
		return -1;
	if (!is_ours(&l, b))
		return fail(t, BRIDGE_NOT_AVAILABLE, b->name);
	if (l.is_up && l.mtu == b->mtu)
		return 0;
	if (!l.is_up)
		keep_host_out(t, b->name);
	return ip_link(t, "set", "dev", b->name, "mtu", str(t, "%lld", (long long)b->mtu), "up");
}

int bridge_check(struct task *t, const struct bridge *b)
{
	struct link l;
	if (link_look(t, b->name, &l) < 0)
		return -1;
	return !l.exists || is_ours(&l, b) ? 0 : fail(t, BRIDGE_NOT_AVAILABLE, b->name);
}

int bridge_remove(struct task *t, const struct bridge *b)
{
	struct link l;
	if (link_look(t, b->name, &l) < 0)
		return -1;
	return is_ours(&l, b) ? ip_link(t, "delete", "dev", b->name, "type", "bridge") : 0;
}
