// SPDX-License-Identifier: Apache-2.0
/* test_tap.c -- taps and bridges, in a network namespace of its own. */
#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/tap.h"

#include "check.h"

enum { SKIPPED = 77, AT_ONCE = 8 };

static const struct bridge ours = { "xapi0", "02:00:00:00:00:01", 1400 };

static void ip(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 10000 };
	CHECK(run_ok(t, &r) == 0);
}

static void *make_ours(void *arg)
{
	struct task *t = task_new(NULL, "test");
	*(int *)arg = bridge_make(t, &ours);
	talloc_free(t);
	return NULL;
}

static void one_bridge_made_by_many(struct task *t)
{
	pthread_t threads[AT_ONCE];
	int results[AT_ONCE];
	struct link l;
	for (int i = 0; i < AT_ONCE; i++)
		CHECK(pthread_create(&threads[i], NULL, make_ours, &results[i]) == 0);
	for (int i = 0; i < AT_ONCE; i++) {
		pthread_join(threads[i], NULL);
		CHECK(results[i] == 0);
	}
	CHECK(link_look(t, ours.name, &l) == 0);
	CHECK(l.exists && l.is_bridge && l.is_up && l.mtu == ours.mtu &&
	      streq(l.address, ours.address));
	char *ipv6 = file_read(t, "/proc/sys/net/ipv6/conf/xapi0/disable_ipv6", 10);
	CHECK(!ipv6 || *ipv6 == '1');
	task_forgive(t);
}

/* Whatever else bears the name is neither used nor removed. */
static void others_are_left_alone(struct task *t)
{
	static const struct bridge not_ours = { "xapi0", "02:00:00:00:00:02", 1400 };
	static const struct bridge no_bridge = { "lo", "00:00:00:00:00:00", 1400 };
	CHECK(bridge_make(t, &not_ours) < 0 && t->code == BRIDGE_NOT_AVAILABLE);
	task_forgive(t);
	CHECK(bridge_make(t, &no_bridge) < 0 && t->code == BRIDGE_NOT_AVAILABLE);
	task_forgive(t);
	CHECK(bridge_remove(t, &not_ours) == 0 && link_exists("xapi0"));
	CHECK(bridge_remove(t, &no_bridge) == 0 && link_exists("lo"));
}

static const char *master_of(struct task *t, const char *link)
{
	struct run r = { .argv = RUN_ARGV("ip", "-brief", "link", "show", "master", link),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 10000 };
	CHECK(run_ok(t, &r) == 0);
	return r.ret_out;
}

static void a_tap_joins_and_goes(struct task *t)
{
	const char *name = "tap0123456789.0", *why; /* as long as may be */
	struct link l;
	int fd = -1;
	CHECK(tap_open(t, name, &fd, &why) == 1 && link_exists(name));
	CHECK(tap_join(t, name, "xapi0", "02:11:22:33:44:55", 1400) == 0);
	CHECK(strstr(master_of(t, "xapi0"), name));
	CHECK(link_look(t, name, &l) == 0 && l.is_up && !l.is_bridge && l.mtu == 1400);
	CHECK(streq(l.address, "fe:11:22:33:44:55") && tap_mtu(fd) == 1400);

	CHECK(tap_join(t, name, "xapi0", "fe:11:22:33:44:55", 1400) == 0);
	CHECK(link_look(t, name, &l) == 0 && streq(l.address, "fe:f1:22:33:44:55"));
	CHECK(tap_join(t, name, "xapi0", "fe:ff:ff:ff:ff:ff", 1400) == 0);
	CHECK(link_look(t, name, &l) == 0 && streq(l.address, "fe:0f:ff:ff:ff:ff"));

	int second = -1;
	CHECK(tap_open(t, name, &second, &why) < 0 && second == -1);
	task_forgive(t);
	CHECK(tap_mtu(0) == 0);
	fd_close(&fd);
	CHECK(!link_exists(name) && link_exists("xapi0"));
}

/* One that somebody made to last is not ours to take. */
static void a_persistent_tap_is_not_taken(struct task *t)
{
	const char *why;
	int fd = -1;
	ip(t, RUN_ARGV("ip", "tuntap", "add", "dev", "tapx", "mode", "tap"));
	CHECK(tap_open(t, "tapx", &fd, &why) < 0 && fd == -1);
	task_forgive(t);
}

static void a_new_mtu_is_taken_over(struct task *t)
{
	static const struct bridge jumbo = { "xapi0", "02:00:00:00:00:01", 9000 };
	struct link l;
	CHECK(bridge_make(t, &jumbo) == 0);
	CHECK(link_look(t, "xapi0", &l) == 0 && l.mtu == 9000);
	CHECK(bridge_remove(t, &jumbo) == 0 && !link_exists("xapi0"));
	CHECK(bridge_remove(t, &jumbo) == 0);
}

/* Without the right to it there is a reason, not a failure. */
static void no_rights(struct task *t)
{
	const char *why = "";
	int fd = -1;
	CHECK(setresuid(65534, 65534, 65534) == 0);
	CHECK(tap_open(t, "tap1", &fd, &why) == 0 && fd == -1);
	CHECK(starts_with(why, "/dev/net/tun: "));
	CHECK(bridge_make(t, &ours) < 0 && !link_exists("xapi0"));
	task_forgive(t);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	const char *why = "";
	int fd = -1;
	if (unshare(CLONE_NEWNET) < 0) {
		printf("skipped: a network namespace: %s\n", strerror(errno));
		return SKIPPED;
	}
	if (tap_open(t, "tap0", &fd, &why) < 1) {
		printf("skipped: %s\n", why);
		return SKIPPED;
	}
	fd_close(&fd);
	one_bridge_made_by_many(t);
	others_are_left_alone(t);
	a_tap_joins_and_goes(t);
	a_persistent_tap_is_not_taken(t);
	a_new_mtu_is_taken_over(t);
	no_rights(t);
	talloc_free(t);
	return 0;
}
