// SPDX-License-Identifier: Apache-2.0
/* tap.h -- the host's end of a guest's interface: a tap device in a bridge.
 *
 *     guest -- QEMU --[descriptor]-- tap --.
 *     guest -- QEMU --[descriptor]-- tap --+-- bridge --- what else the operator puts in
 *
 * A tap lives as long as anybody has its descriptor, and is gone with QEMU.  A bridge lives until it is
 * removed or the host restarts.  Both take CAP_NET_ADMIN.  Links are changed with ip(8), each
 * time in one request, which the kernel fulfils whole or not at all. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct task;

/* The kernel's limits: of a name, and of a tap's MTU. */
enum { LINK_NAME_LIMIT = 15, LINK_MTU_LEAST = 68, LINK_MTU_MOST = 65521 };

/* A network device of the host. */
struct link {
	bool exists; /* else nothing below is set */
	bool is_bridge;
	bool is_up;
	const char *address; /* on t */
	int64_t mtu;
};
int link_look(struct task *, const char *name, struct link *ret);
bool link_exists(const char *name);

/* A new tap.  1: *ret is its descriptor; 0: this host has no taps, or none for us, and *ret_why
 * says why; -1: failed. */
int tap_open(struct task *, const char *name, int *ret, const char **ret_why);
/* Will tap_open() make one, as far as that can be told without making one? */
bool tap_possible(void);
/* Puts the tap into the bridge, and brings it up.  guest_mac: of the interface at the other end, in lower case. */
int tap_join(struct task *, const char *name, const char *bridge, const char *guest_mac,
	     int64_t mtu);
/* By the descriptor; 0: it is no tap. */
int tap_mtu(int fd);

/* A bridge is known to be ours by its address. */
struct bridge {
	const char *name;
	const char *address;
	int64_t mtu;
};
/* It is there and up; made if need be.  BRIDGE_NOT_AVAILABLE [name]: something else has its name. */
int bridge_make(struct task *, const struct bridge *);
/* Nothing else has its name.  One that is not there is no error. */
int bridge_check(struct task *, const struct bridge *);
/* One that is not there, or not ours, is no error and left alone. */
int bridge_remove(struct task *, const struct bridge *);
