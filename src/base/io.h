// SPDX-License-Identifier: Apache-2.0
/* io.h -- files and descriptors: whole reads and writes, durable replacement, folders. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/sync.h"

struct task;

/* Closes *fd at the end of the scope: FD_SCOPE int fd = open(...). */
void fd_close(int *fd);
#define FD_SCOPE __attribute__((cleanup(fd_close)))

/* Reads until n bytes or the end; waits at most ms for each piece.  Returns the bytes read, -1
 * on failure. */
ssize_t io_read(struct task *, int fd, void *to, size_t n, int ms);
/* Writes all n bytes; waits at most ms for each piece. */
int io_write(struct task *, int fd, const void *from, size_t n, int ms);

/* A whole small file as a string on t; fails when larger than limit. */
char *file_read(struct task *, const char *path, size_t limit);
/* path becomes exactly text, durably or not at all: temporary file, fsync, rename, fsync of
 * the folder.  Nothing is written through a link. */
int file_write(struct task *, const char *path, const char *text, mode_t mode);
int file_write_bytes(struct task *, const char *path, const void *bytes, size_t n, mode_t mode);
/* fdatasync by path; the page cache of another process's writes is what it pushes out. */
int file_datasync(struct task *, const char *path, enum sync_site);
/* unlink and fsync of the folder; a file that is not there is no error. */
int file_delete(struct task *, const char *path);
bool file_exists(const char *path);

/* Makes the folder (and no parents) unless it is there. */
int dir_make(struct task *, const char *path, mode_t mode);
/* Removes the folder with all that is in it; follows no link.  One that is not there is no error. */
int dir_remove(struct task *, const char *path);

/* A listening stream socket at path, replaced if it is there, with the mode given.  -1: failed. */
int unix_listen(struct task *, const char *path, mode_t mode);
/* A connection to path, or -1 with the error recorded.  Waits at most 10 s for a listener that takes
 * none of those that wait in its queue. */
int unix_connect(struct task *, const char *path);
