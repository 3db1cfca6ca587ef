// SPDX-License-Identifier: Apache-2.0
/* check_file.c -- qemu-img check, one layer at a time; and a walk of our own through the tables.
 *
 * qemu-img finds nothing wrong with a file that ends within the last cluster that its tables name,
 * although the missing part reads as zeros.  tables_walk() finds that.
 *
 * A check reads tables that a writer changes.  Two ways to keep them apart were to be had:
 *
 *   qemu-img's own lock       the file cannot be opened for writing while it is checked, so that starting a
 *                             VM, or merging layers, fails for no reason that its user could see
 *   none (-U, force-share)    a writer may come, and the check tells of faults that there are not
 *
 * The second is taken, and made true: a file that a process has open for writing is not looked at, and
 * what is said of one that was written while it was looked at is not believed.  QEMU tells of the first
 * by a lock on a byte of the file; to ask for it takes none.  So a frozen layer is checked while VMs read
 * it, since nobody writes it, and the top of a running VM is not.
 *
 * A repair writes, and takes QEMU's lock: where any process has the file open it fails and changes
 * nothing. */
#include "sr/check_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/header.h"
#include "sr/volume_file.h"

enum {
	ID = VOLUME_ID,
	DEPTH = 4,
};

/* Endings of names behind an id. */
static const struct {
	const char *text;
	bool unfinished;
} endings[] = {
	{ VOLUME_SUFFIX, false },
	{ RAW_SUFFIX, false },
	{ VOLUME_SUFFIX UNFINISHED, true },
	{ RAW_SUFFIX UNFINISHED, true },
};

/* ---- names ---- */

/* Nobody has written it for a while; one that is gone again is not. */
static bool is_old(int dir, const char *name)
{
	struct stat st;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_mtim.tv_sec < clock_files_s() - delay_s(DELAY_UNFINISHED_OLD);
}

static void add_name(struct task *t, int dir, const char *name, struct list *ids,
		     struct list *unfinished)
{
	char *id = talloc_strndup(t, name, ID);
	if (strlen(name) < ID || !volume_id_ok(id))
		return;
	for (size_t i = 0; i < COUNT(endings); i++)
		if (streq(name + ID, endings[i].text) && !endings[i].unfinished)
			list_add(t, ids, id);
		else if (streq(name + ID, endings[i].text) && is_old(dir, name))
			list_add(t, unfinished, id);
}

int check_file_list(struct task *t, const struct sr *sr, struct list *ret_ids,
		    struct list *ret_unfinished)
{
	struct list ids = { 0 }, unfinished = { 0 };
	int fd = sr_directory(t, sr);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -1;
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0)
		add_name(t, fd, e->d_name, &ids, &unfinished);
	int failed = errno;
	closedir(d);
	if (failed)
		return task_fail_errno(t, failed, sr->path);
	*ret_ids = ids;
	*ret_unfinished = unfinished;
	return 0;
}

int check_file_discard(struct task *t, const struct sr *sr, const char *id)
{
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0 || !volume_id_ok(id))
		return -1;
	for (size_t i = 0; i < COUNT(endings); i++) {
		const char *name = str(t, "%s%s", id, endings[i].text);
		if (endings[i].unfinished && unlinkat(dir, name, 0) < 0 && errno != ENOENT)
			return task_fail_errno(t, errno, name);
	}
	return sync_file(dir, SYNC_CHECK_DISCARDED) < 0 ? task_fail_errno(t, errno, sr->path) : 0;
}

/* ---- who writes it ---- */

/* Where locks cannot be asked for, what was written is seen by the file's times. */
static bool has_writer(int fd)
{
	return volume_file_writer(fd) > 0;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool untouched(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       same_time(a->st_mtim, b->st_mtim) && same_time(a->st_ctim, b->st_ctim);
}

/* ---- qemu-img ---- */

/* The image alone: its header's word on what is below it is not followed. */
static const char *image_alone(struct task *t, const char *path)
{
	json_t *image =
		json_own(t, json_pack("{s:s, s:n, s:{s:s, s:s}}", "driver", "qcow2", "backing",
				      "file", "driver", "file", "filename", path));
	return str(t, "json:%s", json_text(t, image));
}

static uint64_t number(const json_t *report, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(report, name));
	return n > 0 ? (uint64_t)n : 0;
}

/* Its exit status, 0 to 3, tells less than the figures. */
static struct sr_check judge(struct task *t, const struct run *r)
{
	struct sr_check c = { .verdict = SR_UNREADABLE,
			      .text = talloc_strndup(t, r->ret_err, 500) };
	json_t *report = json_read(t, r->ret_out, strlen(r->ret_out), DEPTH);
	if (!report) {
		task_forgive(t);
		if (strstr(r->ret_err, "Failed to get") && strstr(r->ret_err, "lock"))
			c.verdict = SR_BUSY;
		return c;
	}
	c.leaks = number(report, "leaks");
	c.faults = number(report, "corruptions");
	c.repaired = number(report, "leaks-fixed");
	if (number(report, "check-errors"))
		return c;
	c.verdict = c.faults ? SR_FAULTS : c.leaks ? SR_LEAKS : SR_SOUND;
	c.text = "";
	return c;
}

static int run_check(struct task *t, const char *path, bool repair, struct sr_check *ret)
{
	const char *image = image_alone(t, path);
	struct run r = {
		.argv = repair ? RUN_ARGV("qemu-img", "check", "-r", "leaks", "--output=json",
					  image)
			       : RUN_ARGV("qemu-img", "check", "-U", "--output=json", image),
		.in = -1,
		.out = -1,
		.timeout_ms = delay_ms(DELAY_IMAGE_CHECK),
	};
	if (run(t, &r) < 0)
		return -1;
	*ret = judge(t, &r);
	return 0;
}

/* qemu-img writes when it closes the image, and tells nobody when that fails: what it says it has repaired is
 * looked at. */
static int confirm(struct task *t, const char *path, int fd, struct sr_check *c)
{
	struct sr_check now;
	if (sync_file(fd, SYNC_CHECK_REPAIRED) < 0)
		return task_fail_errno(t, errno, path);
	if (run_check(t, path, false, &now) < 0)
		return -1;
	now.repaired = c->repaired > now.leaks ? c->repaired - now.leaks : 0;
	*c = now;
	return 0;
}

/* ---- the file's end ---- */

/* A header that is no longer sound is just being written, which the caller sees by the file's times. */
static int check_end(struct task *t, int fd, struct sr_check *c)
{
	unsigned char start[HEADER_BYTES];
	struct header h;
	struct tables tables;
	struct stat st;
	ssize_t n = pread(fd, start, sizeof start, 0);
	if (n < 0 || fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, "the volume");
	if (header_read(start, (size_t)n, (uint64_t)st.st_size, &h))
		return 0;
	if (tables_walk(t, fd, (uint64_t)st.st_size, &h, false, &tables) < 0)
		return -1;
	if (!tables.wrong)
		return 0;
	c->verdict = SR_FAULTS;
	c->faults += !c->faults;
	c->text = tables.wrong;
	return 0;
}

/* ---- both ---- */

static int look(struct task *t, const char *path, int fd, bool repair, struct sr_check *ret)
{
	if (run_check(t, path, repair, ret) < 0)
		return -1;
	bool tables = ret->verdict != SR_BUSY && ret->verdict != SR_UNREADABLE;
	return tables && !repair ? check_end(t, fd, ret) : 0;
}

int check_file(struct task *t, const struct sr *sr, const char *id, bool repair,
	       struct sr_check *ret)
{
	const char *name = str(t, "%s.qcow2", id), *path = str(t, "%s/%s", sr->reach, name);
	struct stat before, after;
	struct volume v;
	FD_SCOPE int dir = sr_directory(t, sr);
	/* The header is read by ourselves before a tool sees the file. */
	if (dir < 0 || sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	FD_SCOPE int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &before) < 0) {
		*ret = (struct sr_check){ 0 }; /* plain bytes have no tables */
		return 0;
	}
	struct sr_check c = { .verdict = SR_BUSY };
	if (!has_writer(fd) && look(t, path, fd, repair, &c) < 0)
		return -1;
	bool moved = fstatat(dir, name, &after, AT_SYMLINK_NOFOLLOW) < 0 ||
		     !untouched(&before, &after) || has_writer(fd);
	if (!repair && c.verdict != SR_SOUND && moved)
		c.verdict = SR_BUSY;
	if (repair && c.repaired && confirm(t, path, fd, &c) < 0)
		return -1;
	c.text = c.text ? sr_readable(t, sr, c.text) : NULL;
	*ret = c;
	return 0;
}
