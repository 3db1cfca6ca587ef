// SPDX-License-Identifier: Apache-2.0
/* host.h -- the objects that are there from the first start: pool, host, network, the local SR, and the
 * template that VMs are installed from. */
#pragma once

struct task;

/* Makes what is missing, and brings the host's row up to date. */
int host_open(struct task *);
/* Brings its free memory up to date. */
void host_look(struct task *);
