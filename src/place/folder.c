// SPDX-License-Identifier: Apache-2.0
#include "place/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

/* The system's own.  unread: nothing in it may even be read as a disc. */
static const struct {
	const char *path;
	bool unread;
} systems[] = {
	{ "/bin", false }, { "/boot", false }, { "/dev", true },  { "/etc", false },
	{ "/lib", false }, { "/proc", true },  { "/run", false }, { "/sbin", false },
	{ "/sys", true },  { "/usr", false },
};

int folder_refuse(struct task *t, const char *path, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_47, "",
		    str(t, "The SR is not available [opterr=%s: %s]", path, why), "");
}

/* ---- finding ---- */

/* The path has no links: one that is there by now was put there to lead us astray. */
static int open_real(const char *real)
{
	struct open_how how = {
		.flags = O_DIRECTORY | O_RDONLY | O_CLOEXEC,
		.resolve = RESOLVE_NO_SYMLINKS,
	};
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, real, &how, sizeof how);
	bool unknown = fd < 0 &&
		       (errno == ENOSYS || errno == EPERM); /* or not let through, in a container */
	return unknown ? open(real, (int)how.flags | O_NOFOLLOW) : fd;
}

int folder_find(struct task *t, const void *ctx, const char *location, struct folder *ret)
{
	char real[PATH_MAX];
	struct stat st;
	if (*location != '/')
		return folder_refuse(t, location, "the location is not an absolute path");
	if (!realpath(location, real) || stat(real, &st) < 0)
		return folder_refuse(t, location, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return folder_refuse(t, location, "not a directory");
	if (!text_is_utf8(real))
		return folder_refuse(t, location,
				     "the path is not UTF-8"); /* a record cannot say it */
	FD_SCOPE int fd = open_real(real);
	if (fd < 0 || fstat(fd, &st) < 0)
		return folder_refuse(t, location, strerror(errno));
	*ret = (struct folder){ talloc_strdup(ctx, real), fd, st.st_dev, st.st_ino, false };
	fd = -1;
	return 0;
}

/* ---- judging ---- */

static bool is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* By what it is, not by its name: it may be mounted elsewhere, too. */
static bool is_at(const struct stat *st, const char *path)
{
	struct stat there;
	return stat(path, &there) == 0 && is_same(st, &there);
}

/* A link by that name leads to a folder that has to be judged by itself. */
static bool is_right_at(const struct stat *st, const char *path)
{
	struct stat there;
	return lstat(path, &there) == 0 && is_same(st, &there);
}

/* Is this the one of ours that is for SRs? */
static bool is_for_srs(struct task *t, const struct stat *st, const char *state)
{
	return is_right_at(st, str(t, "%s/sr", state));
}

/* NULL, or whose it is. */
static const char *owner_of(struct task *t, const struct stat *st, bool own, const char *state)
{
	if (own && is_at(st, state))
		return str(t, "it is in the server's own folder %s, where only sr/ may hold SRs",
			   state);
	for (size_t i = 0; i < COUNT(systems); i++)
		if ((own || systems[i].unread) && is_at(st, systems[i].path))
			return str(t, "%s is the system's", systems[i].path);
	return NULL;
}

/* NULL, or who could put another file in the place of ours.  above: it is not the folder itself. */
static const char *who_writes(struct task *t, const struct stat *st, const char *path, bool above)
{
	if (st->st_uid != 0 && st->st_uid != geteuid())
		return str(t,
			   "%s belongs to the user %u, who could swap what is in it: give it to "
			   "root",
			   path, (unsigned)st->st_uid);
	if ((st->st_mode & (S_IWGRP | S_IWOTH)) && !(above && (st->st_mode & S_ISVTX)))
		return str(t,
			   "others than its owner may write in %s (mode %04o): take that right "
			   "from "
			   "them with chmod go-w",
			   path, (unsigned)(st->st_mode & 07777));
	return NULL;
}

/* From the folder up to the root, asked of the descriptor: so it is those above the folder that
 * was opened.  Whose it is, the first one that is anybody's says. */
static const char *judge(struct task *t, const struct folder *f, const char *state)
{
	char *up = talloc_strdup(t, "."), *path = talloc_strdup(t, f->path);
	const char *writer = NULL, *owner = NULL;
	bool decided = false;
	for (bool above = false;; above = true) {
		struct stat st;
		if (fstatat(f->fd, up, &st, 0) < 0)
			return strerror(errno);
		decided |= f->own && is_for_srs(t, &st, state);
		if (!decided && !owner)
			owner = owner_of(t, &st, f->own, state);
		if (f->own && !writer)
			writer = who_writes(t, &st, path, above);
		if (streq(path, "/"))
			break;
		up = talloc_asprintf_append(up, "/..");
		path = dirname(path);
	}
	return owner ? owner : writer;
}

int folder_open(struct task *t, const void *ctx, const char *location, bool own, const char *state,
		struct folder *ret)
{
	struct folder f;
	if (folder_find(t, ctx, location, &f) < 0)
		return -1;
	f.own = own;
	const char *why =
		own && streq(f.path, "/") ? "it is the root of the system" : judge(t, &f, state);
	if (why) {
		close(f.fd);
		return folder_refuse(t, f.path, why);
	}
	*ret = f;
	return 0;
}

/* ---- is it still there? ---- */

static bool leads_here(const struct folder *f, const struct stat *st)
{
	return st->st_dev == f->dev && st->st_ino == f->ino;
}

bool folder_is_there(const struct folder *f)
{
	struct stat st;
	return stat(f->path, &st) == 0 && leads_here(f, &st);
}

static const char *what_came(struct task *t, const struct folder *f, const struct stat *st)
{
	if (st->st_dev == f->dev)
		return "another folder has its name than when the SR was attached";
	return str(t,
		   "another file system is there than when the SR was attached (%u:%u, not %u:%u): "
		   "its own was unmounted, or this one was mounted over it",
		   major(st->st_dev), minor(st->st_dev), major(f->dev), minor(f->dev));
}

int folder_check(struct task *t, const struct folder *f)
{
	struct stat st;
	if (stat(f->path, &st) < 0)
		return folder_refuse(t, f->path,
				     str(t, "it was there when the SR was attached; now: %s",
					 strerror(errno)));
	if (!leads_here(f, &st))
		return folder_refuse(t, f->path, what_came(t, f, &st));
	const char *writer = f->own ? who_writes(t, &st, f->path, false) : NULL;
	return writer ? folder_refuse(t, f->path, writer) : 0;
}
