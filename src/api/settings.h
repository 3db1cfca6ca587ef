// SPDX-License-Identifier: Apache-2.0
/* settings.h -- what the command line and the configuration file decided; set once, before
 * anything else runs, and only read after. */
#pragma once

#include <sys/types.h>

#include "base/list.h"

struct vmm_driver;

struct settings {
	const char *state; /* the state folder, absolute */
	const struct vmm_driver *vmm;
	const char *accel;     /* "tcg" or "kvm" */
	struct list boot_dirs; /* where PV-kernel and PV-ramdisk may lie; absolute */
	uid_t qemu_uid; /* the VM with the number n runs as qemu_uid + n; where qemu_uids is 1, */
	gid_t qemu_gid; /* all do as these two.  The group is for devices that all VMs may use */
	unsigned qemu_uids;
	int agent_interval_s;   /* between questions to a guest's agent; 0: only when it comes */
	const char *address;    /* at which clients reach the host; "": to be found out */
	const char *listen;     /* ADDR:PORT, or "" */
	const char *listen_tls; /* the same */
	const char *pam_dir; /* where PAM's services are described; "": where the system has them */
	const char *version;
};
extern struct settings settings;

/* The one host and the one pool. */
const char *this_host(void);
void set_this_host(const char *ref);
