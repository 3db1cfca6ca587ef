// SPDX-License-Identifier: Apache-2.0
/* host_facts.h -- what the machine is, under the keys by which clients of XenServer look for it: inventories count
 * processors by cpu_info, SDKs take the API's version from software_version. */
#pragma once

#include "model/model.h"

struct task;

/* Fills in the fields that tell of hardware and software: software_version, capabilities, cpu_info, bios_strings, and
 * in other_config boot_time and agent_start_time (seconds since 1970). */
void host_facts(struct task *, struct host_row *);

/* In a transaction: the rows of class host_cpu are the processors that the host has. */
int host_cpus_look(struct task *);

/* The address at which clients reach the host, without a port: as the daemon was told, or the one it listens on, or
 * that of the interface to the outside. */
const char *host_address(struct task *);

/* "https://ADDRESS:PORT", where the API is served; no slash at the end. */
const char *host_url(struct task *, const char *address);
