// SPDX-License-Identifier: Apache-2.0
/* network.h -- what an interface is plugged into. */
#pragma once

struct task;
struct VIF_row;
struct VM_row;
struct network_row;

/* The host's end of the interface: *ret_fd is a tap in its network's bridge, for the caller to
 * close once the VMM has it; -1: user-mode network.  Says which of them in the log and in
 * VIF.status_detail: rows of the VIF read before are stale.  BRIDGE_NOT_AVAILABLE [bridge]. */
int network_tap(struct task *, const struct VM_row *, const struct VIF_row *, int *ret_fd);

/* Would that find what it needs?  Nothing is made. */
int network_check(struct task *, const struct VIF_row *);

/* Its tap, if it has one, goes into the bridge of the network that its row names.  A row that is not there is no
 * error. */
int network_rejoin(struct task *, const char *vif);

/* INVALID_VALUE [MTU, value] when no device can have it. */
int network_check_mtu(struct task *, const struct network_row *);

/* Takes away the bridge that was made for a network which is no more. */
void network_bridge_remove(struct task *, const char *bridge, const char *network_uuid);
