// SPDX-License-Identifier: Apache-2.0
/* guest_metrics.h -- what an agent tells of its guest, as the fields of VM_guest_metrics.
 *
 * Nobody vouches for what it says: it stands in the database as strings of limited length and
 * number, without control characters; an address is one, or is left out. */
#pragma once

#include <jansson.h>

#include "model/model.h"

struct task;

struct guest_report {
	struct map
		os_version; /* name, distro, major, minor, uname; what is not known is not there */
	struct map agent_version; /* major, minor, micro */
	struct map networks;      /* "0/ip", "0/ipv4/0", "0/ipv6/0": 0 is a VIF's device */
	struct map other;         /* feature-...: "1" */
};

/* What guest-info, guest-get-osinfo and guest-network-get-interfaces returned; NULL, or anything else than
 * they should have returned, tells nothing.  The strings are on ctx.  vifs: MAC address -> device;
 * other interfaces of the guest are left out. */
void report_info(const void *ctx, struct guest_report *, const json_t *ret);
void report_os(const void *ctx, struct guest_report *, const json_t *ret);
void report_networks(const void *ctx, struct guest_report *, const json_t *ret,
		     const struct map *vifs);
/* Of guest-info: an agent whose guest is frozen thaws, and does not freeze (qemu-ga: qga/main.c); it may also be
 * configured so. */
bool report_may_be_frozen(const json_t *ret);

/* In a transaction: the agent was heard, and this is what it said.  The first time makes the row. */
int guest_metrics_heard(struct task *, struct VM_row *, const struct guest_report *);
/* In a transaction: nobody answers in the guest any more; what was heard last stays. */
int guest_metrics_silent(struct task *, const struct VM_row *);

/* In a transaction: the VM `to`, whose row is to be stored yet, gets a copy of the other one's, or none
 * if that has none.  The row that it had goes. */
int guest_metrics_copy(struct task *, struct VM_row *to, const struct VM_row *from);
/* In a transaction: the row goes. */
int guest_metrics_delete(struct task *, const struct VM_row *);
/* In a transaction that stores the VM's row: what was heard of a guest that has ended, or begins anew, is no more
 * true. */
int guest_metrics_forget(struct task *, struct VM_row *);
