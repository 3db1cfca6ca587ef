// SPDX-License-Identifier: Apache-2.0
/* process.h -- the process of a VM: no child of ours, without rights, and known again for sure.
 *
 * The file DIR/pid names it: "<pid> <start time> <boot id>\n", where the start time is field 22 of
 * /proc/PID/stat.  It is durable before the program's first instruction, so that whatever runs
 * is found by the next daemon.  DIR/qemu.log holds what the program complained. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct task;

struct process {
	pid_t pid;
	int pidfd; /* readable when it has ended */
};

struct process_plan {
	const char *dir;
	const char *folder;      /* it works in; NULL: the root */
	const char *const *argv; /* argv[0] a whole path; NULL ended */
	size_t nfds;
	const int *fds; /* all that it inherits besides 0, 1 and 2; numbers stay */
	uid_t uid;      /* heeded when we are root */
	gid_t gid;
	gid_t common;     /* a further group */
	const char *uuid; /* of the VM, and */
	uint64_t memory;  /* what it takes: for its control group */
};

/* Runs `run`, which must not return, in a process that is no child of ours and in a session of its own: nothing that
 * befalls us reaches it.  Up to an exec it may only make system calls: other threads may have held any lock at the fork. */
int process_apart(struct task *, void (*run)(const void *), const void *arg);

/* Starts it.  0 says that the program itself runs. */
int process_start(struct task *, const struct process_plan *, struct process *ret);

/* The process that DIR/pid names, if it still is the one and has arg among its first arguments.
 * 1: found; 0: there is none; -1: failed. */
int process_find(struct task *, const char *dir, const char *arg, struct process *ret);

/* Bytes that it uses, and that the kernel has promised it; 0 when it is gone. */
struct process_memory {
	uint64_t resident, promised;
};
struct process_memory process_memory(struct task *, const struct process *);

/* Whether it has ended, or ends within ms. */
bool process_gone(const struct process *, int ms);

/* Kills it and waits until it is gone: 30 s at most, and half a second for each GiB that it has. */
int process_kill(struct task *, const struct process *);

/* The end of DIR/qemu.log, on t; "" when there is none. */
const char *process_complaint(struct task *, const char *dir);
