// SPDX-License-Identifier: Apache-2.0
/* volume_file.h -- a volume as a file in a directory: <id>.qcow2 in that format, or <id>.raw with the
 * guest's bytes as they are.
 *
 * The name says which, and never the content: a guest may write the header of any format onto its raw disk.
 * QEMU's tools are not asked what a file is.  Files are opened relative to the directory and never through
 * a symbolic link. */
#pragma once

#include "base/sync.h"
#include "sr/sr.h"

enum {
	VOLUME_ID = 24,
	CHAIN_MAX = 1000, /* far above what anyone builds: a loop, or an attempt to keep us busy */
};
#define VOLUME_SUFFIX ".qcow2"
#define RAW_SUFFIX ".raw"
#define UNFINISHED ".new" /* behind the name, until the file is durable */

/* In the format of layers. */
char *volume_file_name(const void *ctx, const char *id);
char *volume_file_raw_name(const void *ctx, const char *id);
const char *volume_file_name_of(const void *ctx, const struct volume *);
/* For programs. */
char *volume_file_path(const void *ctx, const struct sr *, const char *id);
/* SR_BACKEND_FAILURE_46; -1. */
int volume_file_refuse(struct task *, const char *id, const char *why);

/* For reading; dir is the directory.  -1 with errno.  An id that has files of both kinds is the one in the
 * format of layers. */
int volume_file_openat(struct task *, int dir, const char *id, bool *ret_raw);
/* The same by itself, with the error recorded: VDI_MISSING, or what is wrong with the file. */
int volume_file_open(struct task *, const struct sr *, const char *id, bool *ret_raw);
/* What the open file says about the volume; ret->raw says which kind it is, and the parent's id goes to
 * ret on ctx.  Returns NULL, or why it is no sound volume. */
const char *volume_file_inspect(const void *ctx, int fd, struct volume *ret);
/* As a layout's stat. */
int volume_file_stat(struct task *, const struct sr *, const char *id, struct volume *ret);
/* Does a process have the open file for writing?  Each QEMU tells by a lock on a byte of it, and to ask for
 * that takes none.  1: yes, 0: no, -1 with errno: locks cannot be asked for here. */
int volume_file_writer(int fd);
/* The volume and all below it, the lowest last, each sound. */
int volume_file_chain(struct task *, const struct sr *, const char *id, struct volumes *ret);
/* How QEMU opens one layer; its file goes by the name. */
json_t *volume_file_layer(struct task *, const struct sr *, const struct volume *, const char *name,
			  bool writable);

/* The same of the volume's own file to be written, whatever its header says that is below, as an argument of a
 * tool. */
const char *volume_file_alone(struct task *, const struct sr *, const struct volume *);

/* A file that is going to have this name, empty, 0600, and <name>.new until then. */
int volume_file_begin(struct task *, int dir, const char *name);
/* It has the name, durably, in the place of what had it before.  When written is -1 it goes, as when
 * this fails.  Returns -1 then. */
int volume_file_finish(struct task *, const struct sr *, int dir, const char *name, int fd,
		       int written);
/* For a new volume: the name has not been there before, and goes after a failure. */
int volume_file_finish_new(struct task *, const struct sr *, int dir, const char *name, int fd,
			   int written);
/* SR_BACKEND_FAILURE_78 when there is a volume by that id already. */
int volume_file_check_new(struct task *, int dir, const char *id);
/* What was written to the volume in place is on the disk; its name was, since it was made. */
int volume_file_durable(struct task *, const struct sr *, const char *id, enum sync_site);
