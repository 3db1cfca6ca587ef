// SPDX-License-Identifier: Apache-2.0
/* release.h -- what a large file that was removed held goes back piece by piece.
 *
 * At once it keeps the file system and its device busy for a second per GB, and others' flushes wait for that: a
 * guest's, and the one inside a snapshot's instant.  A snapshot with memory of 4 GiB that followed the delete of the one
 * before, as backups do it, held the guest up for 58 to 303 ms; so it does for 23 to 44. */
#pragma once

/* Before its name goes; -1: it is not there, or so small that it can go as it is. */
int release_begin(int dir, const char *name);
/* Behind that, and when that is durable: gives its blocks back, unless it has another name or somebody else has it
 * open, and closes it.  What is left after some seconds goes at once.  fd -1: nothing. */
void release(int fd);
