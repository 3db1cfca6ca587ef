// SPDX-License-Identifier: Apache-2.0
#include "sr/attach_local.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

static const char *mark_path(struct task *t, const struct sr *sr)
{
	return str(t, "%s/sr-uuid", sr->path);
}

static int unusable(struct task *t, const char *path, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_47, "",
		    str(t, "The SR is not available [opterr=%s: %s]", path, why), "");
}

/* NULL without an error: there is no mark. */
static const char *read_mark(struct task *t, const struct sr *sr)
{
	if (!file_exists(mark_path(t, sr)))
		return NULL;
	char *mark = file_read(t, mark_path(t, sr), 64);
	if (mark)
		mark[strcspn(mark, "\n")] = 0;
	return mark;
}

static int check_mark(struct task *t, const struct sr *sr, bool create)
{
	const char *mark = read_mark(t, sr);
	if (t->code != NO_ERROR)
		return -1;
	if (mark && streq(mark, sr->uuid))
		return 0;
	if (mark)
		return unusable(t, sr->path, str(t, "it is SR %s", mark));
	if (!create)
		return unusable(t, sr->path, "it is not marked as an SR; is its file system mounted?");
	return file_write(t, mark_path(t, sr), str(t, "%s\n", sr->uuid), 0600);
}

/* One aligned block, written past the page cache and read back. */
static bool direct_io_works(struct task *t, const char *path)
{
	const char *name = str(t, "%s/.direct-io-%d", path, getpid());
	FD_SCOPE int fd = open(name, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	void *block = NULL;
	bool works = fd >= 0 && posix_memalign(&block, 4096, 4096) == 0;
	if (works) {
		memset(block, 0, 4096);
		works = pwrite(fd, block, 4096, 0) == 4096 && pread(fd, block, 4096, 0) == 4096;
	}
	free(block);
	unlink(name);
	return works;
}

/* btrfs answers some parallel direct reads with EIO although the disk is fine. */
static bool choose_direct(struct task *t, const struct sr *sr)
{
	struct statfs fs;
	const char *why = NULL;
	if (statfs(sr->path, &fs) == 0 && (unsigned long)fs.f_type == BTRFS_SUPER_MAGIC)
		why = "btrfs";
	else if (!direct_io_works(t, sr->path))
		why = "the file system refuses direct I/O";
	if (why)
		log_line(t, "disks go through the page cache sr=%s reason=\"%s\"", sr->uuid, why);
	return !why;
}

static int attach(struct task *t, struct sr *sr, const struct map *config, bool create)
{
	struct stat st;
	const char *location = map_get(config, "location");
	if (!location || *location != '/')
		return fail(t, SR_BACKEND_FAILURE_115, "",
			    "The device-config lacks a parameter [opterr=location: the absolute path of "
			    "a directory]", "");
	sr->path = talloc_strdup(sr, location);
	if (stat(location, &st) < 0)
		return unusable(t, location, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return unusable(t, location, "not a directory");
	if (check_mark(t, sr, create) < 0)
		return -1;
	sr->direct = choose_direct(t, sr);
	return 0;
}

static int destroy(struct task *t, struct sr *sr)
{
	struct volumes left;
	if (sr->layout->scan(t, sr, &left) < 0)
		return -1;
	if (left.n)
		return fail(t, SR_NOT_EMPTY);
	return file_delete(t, mark_path(t, sr));
}

const struct attach attach_local = {
	.attach = attach,
	.destroy = destroy,
};
