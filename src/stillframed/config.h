// SPDX-License-Identifier: Apache-2.0
/* config.h -- the daemon's command line and configuration file.
 *
 * The file has lines `key = value`; # begins a comment.  What can be said in both, the command line says last.
 * The keys stand in one table (config.c), which also prints --help. */
#pragma once

#include <stdbool.h>

#include "base/list.h"

struct task;

struct config {
	const char *state;
	const char *listen;         /* ADDR:PORT, or "" */
	const char *listen_tls;     /* the same */
	const char *address;        /* that clients use; "": to be found out */
	const char *tls_pem;        /* "": one of our own making */
	const char *pam_dir;        /* "": the system's */
	const char *accel;          /* auto, kvm, tcg */
	const char *vmm;            /* qemu, fake */
	const char *qemu_uids;      /* "" : a sensible range */
	const char *qemu_user;      /* "" : each VM has one of its own */
	const char *agent_interval; /* seconds */
	const char *test_clock;     /* "": the host's */
	struct list boot_dirs;
	struct list test_delays; /* NAME=FACTOR */
	bool foreground;
	bool model; /* print the model and exit */
};

/* 0, or -1 with the error recorded.  --help and --version print and exit. */
int config_read(struct task *, int argc, char **argv, struct config *ret);
