// SPDX-License-Identifier: Apache-2.0
/* mark.h -- the file `sr-uuid` in an SR's folder: whose folder it is, and who holds the SR.
 *
 *     version 2   stillframe-sr 2
 *                 uuid 7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01     the SR
 *                 owner 3b0f6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6a    the host that holds it; and
 *                 host vmhost1                                  for people, its name and
 *                 state /var/lib/stillframe                     its server's state folder;
 *                                                               none of the three: nobody does
 *
 *     version 1   7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01          nobody does
 *
 * Each line ends with a newline.  A version has a first line that the versions before it refuse.
 *
 * Who holds an SR has a lock on this file, which the kernel takes away when the process ends;
 * and stands in it as the owner, also while it does not run, until it lets go: its VMs may run
 * on.  The lock is an open file description's, so it is not lost when the file is closed
 * elsewhere in the process.
 *
 * The file is never written in place.  A new one is written and locked under another name, and
 * takes this one: so at each moment the file by the name is whole, and locked by the holder; and
 * whoever had the name before, and is not to be reached by locks, sees that it is another file
 * (mark_check). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct task;

enum { MARK_VERSION = 2, MARK_MOST = 4096 };

/* Who holds SRs; "" in all of it: nobody. */
struct holder {
	const char *uuid;  /* of the host's record */
	const char *host;  /* its name, and */
	const char *state; /* its state folder, for people */
};

struct mark {
	int version; /* of a newer one the rest is not known */
	const char *sr;
	struct holder owner;
};

/* n bytes as a mark, on ctx; NULL, or why they are none. */
const char *mark_parse(const void *ctx, const char *text, size_t n, struct mark *ret);
/* Of the version that is written, on ctx. */
const char *mark_text(const void *ctx, const struct mark *);

/* An open folder, and what it is called in errors. */
struct mark_place {
	int dir;
	const char *path;
};

/* What the mark says; version 0: there is none.  Strings on the task.  SR_BACKEND_FAILURE_47. */
int mark_read(struct task *, const struct mark_place *, struct mark *ret);

struct mark_wish {
	const char *sr;
	const struct holder *me;
	const char *from; /* uuid of the host that it is taken away from, "" none */
	bool create;      /* there is none yet, or it is this SR's */
};

struct mark_lock {
	int fd;         /* -1: none */
	bool read_only; /* so is the file system: others who only read may hold the SR, too */
};

/* Holds the SR: the mark is this SR's, locked, and says who holds it.  An older version becomes
 * this one; where there is no room for that, or nothing can be written, it stays as it is.
 * Waits for a moment where the lock was ours: a child that was being born when we were killed
 * has it until it becomes another program.
 *
 * SR_BACKEND_FAILURE_16: somebody else has it; SR_BACKEND_FAILURE_47: there is none, or another
 * SR's, or one of a newer version. */
int mark_take(struct task *, const struct mark_place *, const struct mark_wish *,
	      struct mark_lock *ret);

/* Is the mark still the file that is locked?  SR_BACKEND_FAILURE_47 tells what became of it. */
int mark_check(struct task *, const struct mark_place *, const struct mark_lock *);

/* It names nobody any more; the lock stays until it is closed. */
int mark_leave(struct task *, const struct mark_place *, const struct mark_lock *);

/* Removes the mark; or what a killed process has left of writing one, where that is no use.
 * Durable. */
int mark_remove(struct task *, const struct mark_place *, const struct mark_lock *);
int mark_tidy(struct task *, const struct mark_place *);
