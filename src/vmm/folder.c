// SPDX-License-Identifier: Apache-2.0
#include "vmm/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

static const char *const logs[] = { "qemu.log", "qemu.log.old", "serial.log", "serial.log.old" };

/* A file by a log's name that is not ours alone is none. */
static bool is_log(int dir, const char *name)
{
	struct stat st;
	for (size_t i = 0; i < COUNT(logs); i++)
		if (streq(name, logs[i]))
			return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			       S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_uid == geteuid();
	return false;
}

static bool stays(int dir, const char *name, const char *kept)
{
	return streq(name, ".") || streq(name, "..") || is_log(dir, name) ||
	       (kept && streq(name, kept));
}

static int remove_rest(struct task *t, DIR *d, const char *dir, const char *kept)
{
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0)
		if (!stays(dirfd(d), e->d_name, kept) &&
		    dir_remove(t, str(t, "%s/%s", dir, e->d_name)) < 0)
			return -1;
	return errno ? task_fail_errno(t, errno, dir) : 0;
}

static int close_to_others(struct task *t, int fd, const char *dir)
{
	struct stat st;
	if (fstat(fd, &st) < 0 ||
	    (st.st_uid != geteuid() && fchown(fd, geteuid(), getegid()) < 0) ||
	    ((st.st_mode & 07777) != 0700 && fchmod(fd, 0700) < 0))
		return task_fail_errno(t, errno, dir);
	return 0;
}

int folder_clear(struct task *t, const char *dir, const char *kept)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return task_fail_errno(t, errno, dir);
	int result = close_to_others(t, fd, dir) < 0 ? -1 : remove_rest(t, d, dir, kept);
	closedir(d);
	return result;
}
