// SPDX-License-Identifier: Apache-2.0
/* pif.h -- records of the host's own network interfaces.  They are looked at, never changed: the host's network is
 * its owner's. */
#pragma once

struct task;

/* Makes the records say what the host has now. */
void pifs_look(struct task *);
