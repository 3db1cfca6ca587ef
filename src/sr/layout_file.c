// SPDX-License-Identifier: Apache-2.0
/* layout_file.c -- volumes as qcow2 files in a directory: <id>.qcow2 each, a layer naming the file
 * below it, without a folder, so that the directory can be moved.
 *
 * Files are found by name and header only; QEMU's tools are never asked what a file is.  They are
 * opened relative to the directory and never through a symbolic link. */
#include "sr/layout_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/check_file.h"
#include "sr/header.h"

#define SUFFIX ".qcow2"
#define UNFINISHED ".qcow2.new" /* until create has made it durable */
enum {
	ID = 24,
	CREATE_MS = 120000,
	CHAIN_MAX = 1000, /* far above what anyone builds: a loop, or an attempt to keep us busy */
};

static char *volume_file(const void *ctx, const char *id)
{
	return str(ctx, "%s" SUFFIX, id);
}

/* The id in a file's name <id><suffix>, on ctx; NULL when the name is any other. */
static char *name_to_id(const void *ctx, const char *name, const char *suffix)
{
	if (strlen(name) != ID + strlen(suffix) || !ends_with(name, suffix))
		return NULL;
	char *id = talloc_strndup(ctx, name, ID);
	return volume_id_ok(id) ? id : NULL;
}

static int unavailable(struct task *t, const char *id, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", id, why), "");
}

static int dir_open(struct task *t, const struct sr *sr)
{
	int fd = open(sr->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(t, SR_BACKEND_FAILURE_47, "",
			    str(t, "The SR is not available [opterr=%s: %s]", sr->path,
				strerror(errno)),
			    "");
	return fd;
}

/* ---- what there is ---- */

static ssize_t read_start(int fd, unsigned char *to, size_t n)
{
	ssize_t got;
	do
		got = pread(fd, to, n, 0);
	while (got < 0 && errno == EINTR);
	return got;
}

/* What the open file says about the volume; the parent's id goes to ret on ctx.  Returns NULL,
 * or why it is no sound volume. */
static const char *inspect_once(const void *ctx, int fd, struct volume *ret)
{
	unsigned char start[HEADER_BYTES];
	struct header h;
	struct stat st;
	char parent[ID + 1];
	ssize_t n = read_start(fd, start, sizeof start);
	if (n < 0 || fstat(fd, &st) < 0)
		return strerror(errno);
	const char *wrong = header_read(start, (size_t)n, (uint64_t)st.st_size, &h);
	if (!wrong)
		wrong = header_ours(&h, parent);
	if (wrong)
		return wrong;
	ret->parent = talloc_strdup(ctx, parent);
	ret->virtual_size = h.size;
	ret->physical_size = (uint64_t)st.st_blocks * 512;
	return NULL;
}

/* The same twice before it is called unsound: QEMU rewrites a header when it merges layers, and a
 * read may see half of it. */
static const char *inspect(const void *ctx, int fd, struct volume *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return "not a regular file";
	if (!inspect_once(ctx, fd, ret))
		return NULL;
	usleep(1000);
	return inspect_once(ctx, fd, ret);
}

/* O_NONBLOCK: a FIFO by that name must not hold us up. */
static int volume_openat(struct task *t, int dir, const char *id)
{
	return openat(dir, volume_file(t, id), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

static int volume_open(struct task *t, const struct sr *sr, const char *id)
{
	if (!volume_id_ok(id))
		return fail(t, VDI_MISSING, sr->uuid, id);
	FD_SCOPE int dir = dir_open(t, sr);
	if (dir < 0)
		return -1;
	int fd = volume_openat(t, dir, id);
	if (fd < 0 && errno == ENOENT)
		return fail(t, VDI_MISSING, sr->uuid, id);
	if (fd < 0)
		return unavailable(t, id, errno == ELOOP ? "a symbolic link" : strerror(errno));
	return fd;
}

static int volume_stat(struct task *t, const struct sr *sr, const char *id, struct volume *ret)
{
	FD_SCOPE int fd = volume_open(t, sr, id);
	if (fd < 0)
		return -1;
	struct volume v = { .id = talloc_strdup(t, id) };
	const char *wrong = inspect(t, fd, &v);
	if (wrong)
		return unavailable(t, id, wrong);
	*ret = v;
	return 0;
}

static void scan_one(struct task *t, int dir, char *id, struct volumes *all)
{
	struct volume v = { .id = id };
	FD_SCOPE int fd = volume_openat(t, dir, id);
	if (fd < 0 && errno == ENOENT)
		return; /* removed since its name was read */
	const char *wrong = fd < 0 ? strerror(errno) : inspect(t, fd, &v);
	if (wrong) {
		log_line(t, "left out a file that is no volume file=%s" SUFFIX " because=%s", id,
			 wrong);
		return;
	}
	all->v = talloc_realloc(t, all->v, struct volume, all->n + 1);
	all->v[all->n++] = v;
}

/* Calls each() for the volume ids in the directory's names <id><suffix>. */
static int each_name(struct task *t, const struct sr *sr, const char *suffix,
		     void (*each)(struct task *, int dir, char *id, struct volumes *),
		     struct volumes *all)
{
	int fd = dir_open(t, sr);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -1;
	errno = 0;
	for (struct dirent *e; task_check(t) == 0 && (e = readdir(d)); errno = 0) {
		char *id = name_to_id(t, e->d_name, suffix);
		if (id)
			each(t, fd, id, all);
	}
	int failed = errno;
	closedir(d);
	if (t->code == NO_ERROR && failed)
		return fail(t, SR_BACKEND_FAILURE_40, "",
			    str(t, "The SR scan failed [opterr=%s]", strerror(failed)), "");
	return t->code == NO_ERROR ? 0 : -1;
}

/* Names other than a volume's are somebody else's files, and nobody's business here. */
static int scan(struct task *t, const struct sr *sr, struct volumes *ret)
{
	struct volumes all = { 0 };
	if (each_name(t, sr, SUFFIX, scan_one, &all) < 0)
		return -1;
	*ret = all;
	return 0;
}

static int space(struct task *t, const struct sr *sr, uint64_t *ret_total, uint64_t *ret_free)
{
	struct statvfs fs;
	if (statvfs(sr->path, &fs) < 0)
		return task_fail_errno(t, errno, sr->path);
	*ret_total = (uint64_t)fs.f_blocks * fs.f_frsize;
	*ret_free = (uint64_t)fs.f_bavail * fs.f_frsize; /* QEMU has no share in root's reserve */
	return 0;
}

/* ---- making and removing ---- */

static int folder_sync(struct task *t, const struct sr *sr, int dir)
{
	return fsync(dir) < 0 ? task_fail_errno(t, errno, sr->path) : 0;
}

/* What qemu-img says when there is no room; its exit status does not tell. */
static const struct {
	const char *text;
	int err;
} full[] = {
	{ "No space left on device", ENOSPC },
	{ "Disk quota exceeded", EDQUOT },
};

/* True: that was it, and the task says so. */
static bool is_full(struct task *t, const struct run *r)
{
	for (size_t i = 0; i < COUNT(full); i++)
		if (strstr(r->ret_err, full[i].text))
			return task_fail_errno(t, full[i].err, "qemu-img") < 0;
	return false;
}

static int create_failed(struct task *t, const struct run *r)
{
	if (is_full(t, r))
		return -1;
	const char *why =
		r->ret_status == 127 && !*r->ret_err ? "qemu-img is not installed" : r->ret_err;
	return fail(t, SR_BACKEND_FAILURE_78, "",
		    str(t, "VDI Creation failed [opterr=%.2000s]", why), "");
}

/* -u: nothing but the new file is opened, the one below is only written down. */
static int write_image(struct task *t, const char *path, const char *parent, uint64_t size)
{
	const char *argv[16] = { "qemu-img", "create",
				 "-q",       "-f",
				 "qcow2",    "-u",
				 "-o",       "compat=1.1,lazy_refcounts=off,preallocation=off" };
	size_t n = 8;
	if (*parent) {
		argv[n++] = "-b";
		argv[n++] = volume_file(t, parent);
		argv[n++] = "-F";
		argv[n++] = "qcow2";
	}
	argv[n++] = path;
	argv[n++] = str(t, "%llu", (unsigned long long)size);
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = CREATE_MS };
	if (run(t, &r) < 0)
		return -1;
	return r.ret_status ? create_failed(t, &r) : 0;
}

/* The file is there and 0600 before qemu-img fills it: it never stands open to others. */
static int write_durable(struct task *t, const struct sr *sr, int dir, const char *unfinished,
			 const char *parent, uint64_t size)
{
	FD_SCOPE int fd = openat(dir, unfinished,
				 O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return task_fail_errno(t, errno, unfinished);
	if (write_image(t, str(t, "%s/%s", sr->path, unfinished), parent, size) < 0)
		return -1;
	return fsync(fd) < 0 ? task_fail_errno(t, errno, unfinished) : 0;
}

static int check_new(struct task *t, const struct sr *sr, int dir, const char *id,
		     const char *parent)
{
	struct volume below;
	if (!volume_id_ok(id))
		return fail(t, INTERNAL_ERROR, str(t, "%.100s is no volume's id", id));
	if (faccessat(dir, volume_file(t, id), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return fail(t, SR_BACKEND_FAILURE_78, "",
			    str(t, "VDI Creation failed [opterr=%s is there already]", id), "");
	return *parent ? volume_stat(t, sr, parent, &below) : 0;
}

static int create(struct task *t, const struct sr *sr, const char *id, const char *parent,
		  uint64_t size)
{
	FD_SCOPE int dir = dir_open(t, sr);
	if (dir < 0 || sr_round_size(t, &size) < 0 || check_new(t, sr, dir, id, parent) < 0)
		return -1;
	const char *unfinished = str(t, "%s" UNFINISHED, id), *name = volume_file(t, id);
	if (write_durable(t, sr, dir, unfinished, parent, size) < 0) {
		unlinkat(dir, unfinished, 0);
		return -1;
	}
	if (renameat(dir, unfinished, dir, name) < 0) {
		task_fail_errno(t, errno, name);
		unlinkat(dir, unfinished, 0);
		return -1;
	}
	if (folder_sync(t, sr, dir) < 0) {
		unlinkat(dir, name, 0);
		return -1;
	}
	return 0;
}

/* Also what a create of this id left unfinished when it was killed. */
static int remove_volume(struct task *t, const struct sr *sr, const char *id)
{
	if (!volume_id_ok(id))
		return 0;
	const char *names[] = { volume_file(t, id), str(t, "%s" UNFINISHED, id) };
	FD_SCOPE int dir = dir_open(t, sr);
	if (dir < 0)
		return -1;
	for (size_t i = 0; i < COUNT(names); i++)
		if (unlinkat(dir, names[i], 0) < 0 && errno != ENOENT)
			return fail(t, SR_BACKEND_FAILURE_80, "",
				    str(t, "Failed to delete the VDI [opterr=%s: %s]", names[i],
					strerror(errno)),
				    "");
	return folder_sync(t, sr, dir);
}

static void tidy_one(struct task *t, int dir, char *id, struct volumes *unused)
{
	(void)unused;
	const char *name = str(t, "%s" UNFINISHED, id);
	bool gone = unlinkat(dir, name, 0) == 0;
	log_line(t, "%s an unfinished volume file=%s", gone ? "removed" : "could not remove", name);
}

/* Not in scan: the file might be that of a create at work. */
static int tidy(struct task *t, const struct sr *sr)
{
	return each_name(t, sr, UNFINISHED, tidy_one, NULL);
}

static int sync_volume(struct task *t, const struct sr *sr, const char *id)
{
	FD_SCOPE int fd = volume_open(t, sr, id);
	if (fd < 0)
		return -1;
	return fdatasync(fd) < 0 ? task_fail_errno(t, errno, volume_file(t, id)) : 0;
}

/* ---- how QEMU opens it ---- */

/* The protocol node takes read-only and discard from the format node it stands in: when layers are
 * merged QEMU opens the file again for writing, which a read-only of its own would forbid.
 * discard is for the frozen layers too: a merge into them can give space back then. */
static json_t *layer(struct task *t, const struct sr *sr, const struct volume *v, bool writable)
{
	/* clang-format off */
	return json_pack("{s:s, s:s, s:b, s:o, s:s, s:s, s:{s:b, s:b}, s:{s:s, s:s, s:s, s:{s:b, s:b}}}",
			 "driver", "qcow2",
			 "node-name", volume_node(t, v->id),
			 "read-only", !writable,
			 "backing", *v->parent ? json_string(volume_node(t, v->parent)) : json_null(),
			 "discard", "unmap",
			 "detect-zeroes", "off",
			 "cache", "direct", sr->direct, "no-flush", false,
			 "file", "driver", "file",
				 "filename", str(t, "%s/%s" SUFFIX, sr->path, v->id),
				 "locking", "on",
				 "cache", "direct", sr->direct, "no-flush", false);
	/* clang-format on */
}

static int blockdev(struct task *t, const struct sr *sr, const char *id, bool writable,
		    json_t **ret)
{
	json_t *layers = json_own(t, json_array());
	struct volume v = { .parent = id };
	while (*v.parent) {
		if (json_array_size(layers) == CHAIN_MAX)
			return unavailable(t, id, "too many layers, or they run in a circle");
		if (task_check(t) < 0 || volume_stat(t, sr, v.parent, &v) < 0)
			return -1;
		bool top = json_array_size(layers) == 0;
		json_array_insert_new(layers, 0, layer(t, sr, &v, top && writable));
	}
	*ret = layers;
	return 0;
}

/* ---- growing ---- */

static int resize_failed(struct task *t, const struct run *r)
{
	if (is_full(t, r))
		return -1;
	return fail(t, SR_BACKEND_FAILURE_110, "",
		    str(t, "VDI resize failed [opterr=%.2000s]", r->ret_err), "");
}

/* The layers below are left out: they end where the volume did, and have nothing to show behind that. */
static int grow_image(struct task *t, const struct sr *sr, const struct volume *v, uint64_t size)
{
	json_t *alone = json_own(t, layer(t, sr, v, true));
	json_object_set_new(alone, "backing", json_null());
	struct run r = { .argv = RUN_ARGV("qemu-img", "resize", "-q",
					  str(t, "json:%s", json_text(t, alone)),
					  str(t, "%llu", (unsigned long long)size)),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = CREATE_MS };
	if (run(t, &r) < 0)
		return -1;
	return r.ret_status ? resize_failed(t, &r) : 0;
}

static int resize(struct task *t, const struct sr *sr, const char *id, uint64_t size)
{
	struct volume v, below = { 0 };
	if (sr_round_size(t, &size) < 0 || volume_stat(t, sr, id, &v) < 0 ||
	    (*v.parent && volume_stat(t, sr, v.parent, &below) < 0))
		return -1;
	if (below.virtual_size > v.virtual_size)
		return unavailable(t, id, "it is smaller than what it is a layer over");
	return grow_image(t, sr, &v, size) < 0 ? -1 : sync_volume(t, sr, id);
}

const struct layout layout_file = {
	.scan = scan,
	.stat = volume_stat,
	.space = space,
	.create = create,
	.remove = remove_volume,
	.blockdev = blockdev,
	.sync = sync_volume,
	.resize = resize,
	.tidy = tidy,
	.list = check_file_list,
	.discard = check_file_discard,
	.check = check_file,
};
