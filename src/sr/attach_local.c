// SPDX-License-Identifier: Apache-2.0
/* attach_local.c -- an SR in a directory of this host that is there already: its own, or
 * borrowed.
 *
 * In its own the file `sr-uuid` in it says whose directory it is, so that a file system that is
 * not mounted, or another one mounted in its place, is refused and not taken for an SR that lost
 * its disks.  That file is locked, and the directory kept open, for as long as the SR is
 * attached. */
#include "sr/attach_local.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

#define PROBE ".direct-io.new"
#define SHARED_PROBE ".reflink.new"
enum { PROBE_BYTES = 4096 };

/* The directory is open: so programs can reach it by our descriptor, and their names lead
 * nowhere else. */
static void tell_where(struct sr *sr)
{
	sr->path = sr->folder.path;
	sr->reach = str(sr, "/proc/%d/fd/%d", (int)getpid(), sr->folder.fd);
}

static struct mark_place place_of(const struct sr *sr)
{
	return (struct mark_place){ sr->folder.fd, sr->path };
}

/* ---- what the file system can do ---- */

/* Of a probe's name, which is gone again; -1 with errno. */
static int open_probe(int dir, const char *name, int how)
{
	unlinkat(dir, name, 0);
	int fd = openat(dir, name, how | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlinkat(dir, name, 0);
	return fd;
}

/* Direct I/O to and from an open file.  A full file system says nothing about it. */
static const char *direct_works(int fd)
{
	char buf[PROBE_BYTES] __attribute__((aligned(PROBE_BYTES))) = "";
	if (pwrite(fd, buf, sizeof buf, 0) != sizeof buf)
		return errno == ENOSPC || errno == EDQUOT ? NULL : "aligned writes fail";
	return pread(fd, buf, sizeof buf, 0) == sizeof buf ? NULL : "aligned reads fail";
}

/* NULL when disks can be opened past the page cache, else why not. */
static const char *why_not_direct(int dir)
{
	struct statfs fs;
	if (fstatfs(dir, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC)
		return "btrfs answers some parallel direct reads with EIO";
	FD_SCOPE int fd = open_probe(dir, PROBE, O_RDWR | O_DIRECT);
	if (fd < 0)
		return errno == EINVAL ? "the file system has no direct I/O" : "the probe failed";
	return direct_works(fd);
}

/* NULL when files can share blocks, else why not: tried with the mark.  No room says nothing
 * about it. */
static const char *why_no_reflink(int dir, int mark)
{
	FD_SCOPE int fd = open_probe(dir, SHARED_PROBE, O_WRONLY);
	if (fd < 0)
		return "the probe failed";
	if (ioctl(fd, FICLONE, mark) == 0 || errno == ENOSPC || errno == EDQUOT)
		return NULL;
	return errno == EOPNOTSUPP ? "the file system cannot" : strerror(errno);
}

static void try_out(struct task *t, struct sr *sr)
{
	const char *why = why_not_direct(sr->folder.fd);
	sr->direct = !why;
	if (why)
		log_line(t, "disks go through the page cache sr=%s path=%s because=%s", sr->uuid,
			 sr->path, why);
	why = why_no_reflink(sr->folder.fd, sr->mark.fd);
	sr->reflink = !why;
	if (why)
		log_line(t,
			 "snapshots are layers, for the file system has no reflinks sr=%s path=%s "
			 "because=\"%s\"",
			 sr->uuid, sr->path, why);
}

/* ---- its own ---- */

static int attach(struct task *t, struct sr *sr, const struct sr_place *p, bool create)
{
	const char *from = map_get(p->config, TAKE_OVER);
	if (folder_open(t, sr, map_get(p->config, "location"), true, p->holder->state,
			&sr->folder) < 0)
		return -1;
	tell_where(sr);
	const struct mark_place at = place_of(sr);
	const struct mark_wish wish = { sr->uuid, p->holder, from ? from : "", create };
	if (mark_take(t, &at, &wish, &sr->mark) < 0)
		return -1;
	try_out(t, sr);
	return 0;
}

/* Only who has the lock alone may write. */
static bool came_to_life(const struct sr *sr)
{
	struct statvfs fs;
	return sr->mark.read_only && fstatvfs(sr->folder.fd, &fs) == 0 && !(fs.f_flag & ST_RDONLY);
}

static int check(struct task *t, const struct sr *sr)
{
	const struct mark_place at = place_of(sr);
	if (folder_check(t, &sr->folder) < 0 || mark_check(t, &at, &sr->mark) < 0)
		return -1;
	if (came_to_life(sr))
		return folder_refuse(t, sr->path,
				     "its file system could only be read when the SR was attached, "
				     "and can be "
				     "written now: run sr-scan");
	return 0;
}

static int leave(struct task *t, const struct sr *sr)
{
	const struct mark_place at = place_of(sr);
	return mark_leave(t, &at, &sr->mark);
}

/* Does the mark say that we hold the SR?  Else there is nothing of ours to take back. */
static int leave_mark(struct task *t, const struct mark_place *at, const struct sr_place *p)
{
	struct mark m;
	struct mark_lock lock = { .fd = -1 };
	const struct mark_wish wish = { p->uuid, p->holder, "", false };
	if (mark_read(t, at, &m) < 0)
		return -1;
	if (!streq(m.sr, p->uuid) || !streq(m.owner.uuid, p->holder->uuid))
		return 0;
	int left = mark_take(t, at, &wish, &lock) < 0 ? -1 : mark_leave(t, at, &lock);
	fd_close(&lock.fd);
	return left;
}

static int abandon(struct task *t, const struct sr_place *p)
{
	struct folder f;
	if (folder_open(t, t, map_get(p->config, "location"), true, p->holder->state, &f) < 0)
		return -1;
	const struct mark_place at = { f.fd, f.path };
	int result = mark_tidy(t, &at);
	if (result == 0)
		result = leave_mark(t, &at, p);
	close(f.fd);
	return result;
}

/* A mark of a newer version is told as what it is. */
static const char *probe(struct task *t, const struct map *config)
{
	struct folder f;
	struct mark m;
	if (folder_find(t, t, map_get(config, "location"), &f) < 0)
		return NULL;
	int found = mark_read(t, &(struct mark_place){ f.fd, f.path }, &m);
	close(f.fd);
	return found < 0 ? NULL : m.sr;
}

static int destroy(struct task *t, const struct sr *sr)
{
	const struct mark_place at = place_of(sr);
	return mark_remove(t, &at, &sr->mark);
}

const struct attach attach_local = {
	.attach = attach,
	.check = check,
	.leave = leave,
	.abandon = abandon,
	.probe = probe,
	.destroy = destroy,
};

/* ---- borrowed ---- */

static int borrow(struct task *t, struct sr *sr, const struct sr_place *p, bool create)
{
	(void)create;
	if (folder_open(t, sr, map_get(p->config, "location"), false, p->holder->state,
			&sr->folder) < 0)
		return -1;
	tell_where(sr);
	return 0;
}

static int check_borrowed(struct task *t, const struct sr *sr)
{
	return folder_check(t, &sr->folder);
}

static int give_back(struct task *t, const struct sr *sr)
{
	(void)t;
	(void)sr;
	return 0;
}

const struct attach attach_borrowed = {
	.attach = borrow,
	.check = check_borrowed,
	.destroy = give_back,
};
