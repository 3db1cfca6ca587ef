// SPDX-License-Identifier: Apache-2.0
/* folder.h -- a folder of the host's that holds an SR: found, judged, and kept by a descriptor.
 *
 * All work in it goes through the descriptor.  So what happens to the path meanwhile (its file
 * system is unmounted, another one is mounted over it, the folder is moved away) cannot turn our
 * work to other files, and folder_check() notices it: then the path leads to another folder than
 * the one that is kept. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct task;

struct folder {
	const char *path; /* absolute, without links */
	int fd;           /* open for reading; -1: none */
	dev_t dev;
	ino_t ino;
	bool own; /* we write in it, and nobody else may */
};

/* The folder at the absolute path, whatever it is; ret->path on ctx.  SR_BACKEND_FAILURE_47. */
int folder_find(struct task *, const void *ctx, const char *location, struct folder *ret);

/* The same, where an SR may be there.  state: our own state folder.
 *
 * own: refused are the system's folders with all beneath them, and our state folder but for its
 * `sr` and what is beneath that; and what anybody but root and our own user could write or swap:
 * the folder itself, or one above it (one with the sticky bit, as /tmp, will do: there nobody
 * moves what is another's). Else, for what is only read, refused are /dev, /proc and /sys, where
 * a name may be no file. */
int folder_open(struct task *, const void *ctx, const char *location, bool own, const char *state,
		struct folder *ret);

/* Does the path still lead to this folder, and may still nobody else write there?
 * SR_BACKEND_FAILURE_47 tells what was found instead. */
int folder_check(struct task *, const struct folder *);
/* Only the first of it, without a word. */
bool folder_is_there(const struct folder *);

/* SR_BACKEND_FAILURE_47; -1. */
int folder_refuse(struct task *, const char *path, const char *why);
