// SPDX-License-Identifier: Apache-2.0
/* faulty.c -- a FUSE file system that shows a folder, and fails as it is told.
 *
 *     faulty CONTROL FOLDER MOUNTPOINT        until it is unmounted
 *
 * CONTROL is a file of one struct control, shared with test/lib/faulty.py.  Calls that change something are
 * counted when their file's name contains `name`; the one whose number is `fail_at` fails, and with `sticky`
 * all behind it.  `what` tells which sort each was.  What deletes does not run out of space.
 *
 * Nothing is written back later, so the program that writes is the one that gets the error; what the kernel
 * writes for a shared mapping has no such program, and is left alone.  Locks are the kernel's.  Files are
 * opened without O_DIRECT, since libfuse's buffers are not aligned: to who uses the mount it makes no difference. */
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct control {
	_Atomic uint64_t count, fail_at;
	_Atomic int32_t error, sticky;
	char name[64];
	uint8_t what[4096]; /* of each call */
};

static struct control *control;
static int folder;

enum { CHANGES, DELETES, SYNCS };

/* Is this call one that fails?  0, or what it answers. */
static int trouble(const char *path, int what)
{
	if (!strstr(path ? path : "", control->name))
		return 0;
	uint64_t n = ++control->count, at = control->fail_at;
	control->what[(n - 1) % sizeof control->what] = (uint8_t)what;
	if (!at || n < at || (n > at && !control->sticky))
		return 0;
	return what == DELETES && control->error == ENOSPC ? 0 : -control->error;
}

static const char *in(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int said(int result)
{
	return result < 0 ? -errno : result;
}

/* ---- what changes something ---- */

#define MAY_FAIL(path, what)                                                                       \
	do {                                                                                       \
		int trouble_now = trouble(path, what);                                             \
		if (trouble_now)                                                                   \
			return trouble_now;                                                        \
	} while (0)

static int op_write(const char *path, const char *data, size_t n, off_t at,
		    struct fuse_file_info *fi)
{
	if (!fi->writepage)
		MAY_FAIL(path, CHANGES);
	return said((int)pwrite((int)fi->fh, data, n, at));
}

static int op_fsync(const char *path, int data, struct fuse_file_info *fi)
{
	MAY_FAIL(path, SYNCS);
	return said(data ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}

static int op_fsyncdir(const char *path, int data, struct fuse_file_info *fi)
{
	(void)data, (void)fi;
	MAY_FAIL(path, SYNCS);
	int fd = openat(folder, in(path), O_RDONLY | O_DIRECTORY);
	int result = said(fd < 0 ? fd : fsync(fd));
	close(fd);
	return result;
}

static int op_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	MAY_FAIL(path, CHANGES);
	int fd = fi ? (int)fi->fh : openat(folder, in(path), O_WRONLY);
	int result = said(fd < 0 ? fd : ftruncate(fd, size));
	if (!fi && fd >= 0)
		close(fd);
	return result;
}

static int op_fallocate(const char *path, int mode, off_t at, off_t n, struct fuse_file_info *fi)
{
	MAY_FAIL(path, CHANGES);
	return said(fallocate((int)fi->fh, mode, at, n));
}

static int op_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	MAY_FAIL(path, CHANGES);
	int fd = openat(folder, in(path), (fi->flags & ~(O_DIRECT | O_ACCMODE)) | O_RDWR, mode);
	fi->fh = (uint64_t)fd;
	return fd < 0 ? -errno : 0;
}

static int op_mknod(const char *path, mode_t mode, dev_t dev)
{
	MAY_FAIL(path, CHANGES);
	return said(mknodat(folder, in(path), mode, dev));
}

static int op_mkdir(const char *path, mode_t mode)
{
	MAY_FAIL(path, CHANGES);
	return said(mkdirat(folder, in(path), mode));
}

static int op_unlink(const char *path)
{
	MAY_FAIL(path, DELETES);
	return said(unlinkat(folder, in(path), 0));
}

static int op_rmdir(const char *path)
{
	MAY_FAIL(path, DELETES);
	return said(unlinkat(folder, in(path), AT_REMOVEDIR));
}

static int op_rename(const char *from, const char *to, unsigned flags)
{
	MAY_FAIL(to, 0);
	return said(renameat2(folder, in(from), folder, in(to), flags));
}

static int op_link(const char *from, const char *to)
{
	MAY_FAIL(to, 0);
	return said(linkat(folder, in(from), folder, in(to), 0));
}

/* ---- what does not, or does no harm ---- */

static int op_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	return said(fi ? fstat((int)fi->fh, st)
		       : fstatat(folder, in(path), st, AT_SYMLINK_NOFOLLOW));
}

/* A file may have been opened for writing only, and the kernel reads the rest of a page then. */
static int op_open(const char *path, struct fuse_file_info *fi)
{
	int flags = fi->flags & ~(O_DIRECT | O_APPEND | O_ACCMODE);
	int writes = (fi->flags & O_ACCMODE) != O_RDONLY;
	int fd = openat(folder, in(path), flags | (writes ? O_RDWR : O_RDONLY));
	fi->fh = (uint64_t)fd;
	return fd < 0 ? -errno : 0;
}

static int op_read(const char *path, char *data, size_t n, off_t at, struct fuse_file_info *fi)
{
	(void)path;
	return said((int)pread((int)fi->fh, data, n, at));
}

static off_t op_lseek(const char *path, off_t at, int whence, struct fuse_file_info *fi)
{
	(void)path;
	off_t found = lseek((int)fi->fh, at, whence);
	return found < 0 ? -errno : found;
}

static int op_release(const char *path, struct fuse_file_info *fi)
{
	(void)path;
	return said(close((int)fi->fh));
}

static int op_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t at,
		      struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
	(void)at, (void)fi, (void)flags;
	int fd = openat(folder, in(path), O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -errno;
	for (struct dirent *e; (e = readdir(d));)
		fill(buffer, e->d_name, NULL, 0, 0);
	closedir(d);
	return 0;
}

static int op_statfs(const char *path, struct statvfs *fs)
{
	(void)path;
	return said(fstatvfs(folder, fs));
}

static int op_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	(void)fi;
	return said(fchmodat(folder, in(path), mode, 0));
}

static int op_chown(const char *path, uid_t user, gid_t group, struct fuse_file_info *fi)
{
	(void)fi;
	return said(fchownat(folder, in(path), user, group, AT_SYMLINK_NOFOLLOW));
}

static int op_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
	(void)fi;
	return said(utimensat(folder, in(path), times, AT_SYMLINK_NOFOLLOW));
}

static void *op_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	config->kernel_cache = 1; /* nobody else changes the files */
	config->use_ino = 1;
	return NULL;
}

static const struct fuse_operations operations = {
	.init = op_init,
	.write = op_write,
	.fsync = op_fsync,
	.fsyncdir = op_fsyncdir,
	.truncate = op_truncate,
	.fallocate = op_fallocate,
	.create = op_create,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.link = op_link,
	.getattr = op_getattr,
	.open = op_open,
	.read = op_read,
	.lseek = op_lseek,
	.release = op_release,
	.readdir = op_readdir,
	.statfs = op_statfs,
	.chmod = op_chmod,
	.chown = op_chown,
	.utimens = op_utimens,
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int fd = open(argv[1], O_RDWR);
	folder = open(argv[2], O_PATH | O_DIRECTORY);
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || folder < 0 || control == MAP_FAILED) {
		perror("faulty");
		return 1;
	}
	umask(0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	char stay[] = "-f", options[] = "-oallow_other,fsname=faulty";
	char *words[] = { argv[0], stay, options, argv[3], NULL };
	return fuse_main(4, words, &operations, NULL);
}
