// SPDX-License-Identifier: Apache-2.0
/* layout_iso.c -- discs as files that somebody put into a directory: each is a volume, and its name the
 * volume's id.
 *
 * A file is the disc's content from its first byte to its last, whatever it looks like: nobody is
 * asked for a format, since a format can name other files.  It is opened relative to the directory
 * and never through a symbolic link, so whoever may put files there gives out no others of this
 * host.  All of it can change at any time; nothing is written. */
#include "sr/layout_iso.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

static const char *const suffixes[] = { ".iso", ".img" }; /* in any case */

enum { SUFFIX = 4, SECTOR = 512 };

/* ---- names ---- */

/* Does the name ask to be taken for a disc?  Hidden files do not: half a download is one. */
static bool is_disc(const char *name)
{
	size_t n = strlen(name);
	if (*name == '.' || n <= SUFFIX || strchr(name, '/'))
		return false;
	for (size_t i = 0; i < COUNT(suffixes); i++)
		if (strcasecmp(name + n - SUFFIX, suffixes[i]) == 0)
			return true;
	return false;
}

/* NULL, or why the name cannot be shown and told to QEMU.  C2 80 to C2 9F are control characters in
 * UTF-8. */
static const char *bad_name(const char *name)
{
	if (!text_is_utf8(name))
		return "its name is not UTF-8";
	for (const unsigned char *p = (const unsigned char *)name; *p; p++)
		if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
			return "its name has control characters";
	return NULL;
}

/* A name that was left out, for the log. */
static const char *printable(struct task *t, const char *name)
{
	char *s = talloc_strdup(t, name);
	for (char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f || *p == '"')
			*p = '?';
	return s;
}

/* ---- what there is ---- */

/* The size of what the guest sees is QEMU's: zeros are put behind a last sector that is not whole. */
static const char *inspect(int fd, struct volume *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return strerror(errno);
	if (!S_ISREG(st.st_mode))
		return "not a regular file";
	if (st.st_size == 0)
		return "empty";
	ret->parent = "";
	ret->virtual_size = ((uint64_t)st.st_size + SECTOR - 1) / SECTOR * SECTOR;
	ret->physical_size = (uint64_t)st.st_blocks * 512;
	return NULL;
}

/* O_NONBLOCK: a FIFO by that name must not hold us up. */
static int disc_openat(int dir, const char *name)
{
	return openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

static const char *open_error(int err)
{
	return err == ELOOP ? "a symbolic link" : strerror(err);
}

static int disc_unavailable(struct task *t, const char *id, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", id, why), "");
}

static int disc_open(struct task *t, const struct sr *sr, const char *id)
{
	if (!is_disc(id) || bad_name(id))
		return fail(t, VDI_MISSING, sr->uuid, id);
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0)
		return -1;
	int fd = disc_openat(dir, id);
	if (fd < 0 && errno == ENOENT)
		return fail(t, VDI_MISSING, sr->uuid, id);
	return fd < 0 ? disc_unavailable(t, id, open_error(errno)) : fd;
}

static int disc_stat(struct task *t, const struct sr *sr, const char *id, struct volume *ret)
{
	FD_SCOPE int fd = disc_open(t, sr, id);
	if (fd < 0)
		return -1;
	struct volume v = { .id = talloc_strdup(t, id) };
	const char *wrong = inspect(fd, &v);
	if (wrong)
		return disc_unavailable(t, id, wrong);
	*ret = v;
	return 0;
}

static void scan_one(struct task *t, int dir, const char *name, struct volumes *all)
{
	struct volume v = { .id = talloc_strdup(t, name) };
	const char *wrong = bad_name(name);
	FD_SCOPE int fd = wrong ? -1 : disc_openat(dir, name);
	if (!wrong && fd < 0 && errno == ENOENT)
		return; /* removed since its name was read */
	if (!wrong)
		wrong = fd < 0 ? open_error(errno) : inspect(fd, &v);
	if (wrong) {
		log_line(t, "left out a file that is no disc file=\"%s\" because=\"%s\"",
			 printable(t, name), wrong);
		return;
	}
	all->v = talloc_realloc(t, all->v, struct volume, all->n + 1);
	all->v[all->n++] = v;
}

static int scan(struct task *t, const struct sr *sr, struct volumes *ret)
{
	struct volumes all = { 0 };
	int fd = sr_directory(t, sr);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -1;
	errno = 0;
	for (struct dirent *e; task_check(t) == 0 && (e = readdir(d)); errno = 0)
		if (is_disc(e->d_name))
			scan_one(t, fd, e->d_name, &all);
	int failed = errno;
	closedir(d);
	if (t->code != NO_ERROR)
		return -1;
	if (failed)
		return fail(t, SR_BACKEND_FAILURE_40, "",
			    str(t, "The SR scan failed [opterr=%s]", strerror(failed)), "");
	*ret = all;
	return 0;
}

/* None of it is free for us. */
static int space(struct task *t, const struct sr *sr, uint64_t *ret_total, uint64_t *ret_free)
{
	struct statvfs fs;
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0)
		return -1;
	if (fstatvfs(dir, &fs) < 0)
		return folder_refuse(t, sr->path, strerror(errno));
	*ret_total = (uint64_t)fs.f_blocks * fs.f_frsize;
	*ret_free = 0;
	return 0;
}

/* ---- how QEMU opens it ---- */

/* Without locks: nobody writes through us, many read at once, and one of those who hold the descriptor
 * could otherwise lock the others out. */
static int blockdev(struct task *t, const struct sr *sr, const char *id, bool writable,
		    json_t **ret)
{
	struct volume v;
	(void)writable;
	if (disc_stat(t, sr, id, &v) < 0)
		return -1;
	*ret = json_own(t, json_pack("[{s:s, s:s, s:b, s:{s:s, s:s, s:s}}]", "driver", "raw",
				     "node-name", volume_node_named(t, sr, id), "read-only", true,
				     "file", "driver", "file", "filename",
				     str(t, "%s/%s", sr->reach, id), "locking", "off"));
	return 0;
}

const struct layout layout_iso = {
	.scan = scan,
	.stat = disc_stat,
	.space = space,
	.blockdev = blockdev,
};
