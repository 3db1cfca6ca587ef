// SPDX-License-Identifier: Apache-2.0
/* attach_local.c -- an SR in a directory of this host that is there already: its own, or borrowed.
 *
 * In its own the file `sr-uuid` in it says whose directory it is, so that a file system that is not mounted,
 * or another one mounted in its place, is refused and not taken for an SR that lost its disks. */
#include "sr/attach_local.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

#define MARK "sr-uuid"
#define PROBE ".direct-io.new"
#define SHARED_PROBE ".reflink.new"
enum { PROBE_BYTES = 4096 };

static int unavailable(struct task *t, const char *place, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_47, "",
		    str(t, "The SR is not available [opterr=%s: %s]", place, why), "");
}

/* The directory as QEMU will be told it: absolute, without links, so that it names one place for
 * as long as the SR is attached. */
static int find_directory(struct task *t, struct sr *sr, const char *location)
{
	char real[PATH_MAX];
	struct stat st;
	if (*location != '/')
		return unavailable(t, location, "the location is not an absolute path");
	if (!realpath(location, real) || stat(real, &st) < 0)
		return unavailable(t, location, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return unavailable(t, location, "not a directory");
	if (!text_is_utf8(real))
		return unavailable(t, location, "the path is not UTF-8"); /* QMP cannot say it */
	sr->path = talloc_strdup(sr, real);
	return 0;
}

/* The uuid in the mark, "" when there is none. */
static const char *mark_read(struct task *t, const char *path)
{
	char *text = talloc_strdup(t, "");
	if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		text = file_read(t, path, 128);
	if (text)
		text[strcspn(text, "\n")] = 0;
	return text;
}

static int check_mark(struct task *t, const struct sr *sr, bool create)
{
	const char *path = str(t, "%s/" MARK, sr->path), *found = mark_read(t, path);
	if (!found)
		return -1;
	if (streq(found, sr->uuid))
		return 0;
	if (*found || !create)
		return unavailable(t, sr->path,
				   *found ? str(t, "it belongs to the SR %.40s", found)
					  : "it holds no SR; is its file system mounted?");
	return file_write(t, path, str(t, "%s\n", sr->uuid), 0600);
}

/* Direct I/O to and from an open file, which the caller removes.  A full file system says nothing
 * about it. */
static const char *direct_works(int fd)
{
	char buf[PROBE_BYTES] __attribute__((aligned(PROBE_BYTES))) = "";
	if (pwrite(fd, buf, sizeof buf, 0) != sizeof buf)
		return errno == ENOSPC || errno == EDQUOT ? NULL : "aligned writes fail";
	return pread(fd, buf, sizeof buf, 0) == sizeof buf ? NULL : "aligned reads fail";
}

/* NULL when disks can be opened past the page cache, else why not. */
static const char *why_not_direct(const char *path)
{
	struct statfs fs;
	if (statfs(path, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC)
		return "btrfs answers some parallel direct reads with EIO";
	FD_SCOPE int dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	FD_SCOPE int fd =
		openat(dir, PROBE, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (fd < 0)
		return errno == EINVAL ? "the file system has no direct I/O" : "the probe failed";
	unlinkat(dir, PROBE, 0);
	return direct_works(fd);
}

/* NULL when files can share blocks, else why not: tried with the mark.  No room says nothing about it. */
static const char *why_no_reflink(const char *path)
{
	FD_SCOPE int dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	FD_SCOPE int mark = openat(dir, MARK, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	FD_SCOPE int fd = openat(dir, SHARED_PROBE,
				 O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (mark < 0 || fd < 0)
		return "the probe failed";
	unlinkat(dir, SHARED_PROBE, 0);
	if (ioctl(fd, FICLONE, mark) == 0 || errno == ENOSPC || errno == EDQUOT)
		return NULL;
	return errno == EOPNOTSUPP ? "the file system cannot" : strerror(errno);
}

static int attach(struct task *t, struct sr *sr, const struct map *config, bool create)
{
	if (find_directory(t, sr, map_get(config, "location")) < 0 || check_mark(t, sr, create) < 0)
		return -1;
	const char *why = why_not_direct(sr->path);
	sr->direct = !why;
	if (why)
		log_line(t, "disks go through the page cache sr=%s path=%s because=%s", sr->uuid,
			 sr->path, why);
	why = why_no_reflink(sr->path);
	sr->reflink = !why;
	if (why)
		log_line(t, "volumes share no blocks sr=%s path=%s because=%s", sr->uuid, sr->path,
			 why);
	return 0;
}

static const char *probe(struct task *t, const struct map *config)
{
	struct sr *sr = talloc_zero(t, struct sr);
	if (find_directory(t, sr, map_get(config, "location")) < 0)
		return NULL;
	const char *found = mark_read(t, str(t, "%s/" MARK, sr->path));
	if (found && *found && !text_is_uuid(found)) {
		unavailable(t, sr->path, "what is in its file " MARK " is no uuid");
		return NULL;
	}
	return found;
}

static int destroy(struct task *t, struct sr *sr)
{
	return file_delete(t, str(t, "%s/" MARK, sr->path));
}

const struct attach attach_local = {
	.attach = attach,
	.probe = probe,
	.destroy = destroy,
};

/* ---- borrowed ---- */

static int borrow(struct task *t, struct sr *sr, const struct map *config, bool create)
{
	(void)create;
	if (find_directory(t, sr, map_get(config, "location")) < 0)
		return -1;
	FD_SCOPE int dir = open(sr->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	return dir < 0 ? unavailable(t, sr->path, strerror(errno)) : 0;
}

static int give_back(struct task *t, struct sr *sr)
{
	(void)t;
	(void)sr;
	return 0;
}

const struct attach attach_borrowed = {
	.attach = borrow,
	.destroy = give_back,
};
