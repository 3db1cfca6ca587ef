// SPDX-License-Identifier: Apache-2.0
/* nic.h -- the network interfaces that a host has of its own: hardware, and what else is in a bridge; no taps.
 *
 * How they are set up is for their owner to say: they are only looked at, with ip(8) and in /sys/class/net. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct task;

/* What is not known is "", 0 or false.  All on the task. */
struct nic {
	const char *name, *address;
	int64_t mtu;
	bool is_hardware, is_up, has_carrier;
	const char *bridge; /* in which it is */
	/* Of itself, or of its bridge, which has them then. */
	const char *ip, *netmask, *gateway;
	bool is_leased;   /* ip: by DHCP */
	struct list ipv6; /* with their prefixes' lengths */
	bool is_autoconf; /* one of them */
	const char *gateway6;
	bool is_default; /* the way out of the host */
	int64_t speed;   /* Mbit/s */
	bool is_duplex;
	const char *vendor, *device, *pci;
};

struct nics {
	size_t n;
	struct nic *v;
};

/* INTERNAL_ERROR when ip(8) fails. */
int nics_look(struct task *, struct nics *ret);
