// SPDX-License-Identifier: Apache-2.0
/* layout_file.c -- volumes as files in a directory: <id>.qcow2 each, a layer naming the file below it,
 * without a folder, so that the directory can be moved; or <id>.raw, without layers.
 *
 * What a file must be is told in volume_file.h; what becomes of layers that are there, in layers_file.c. */
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
#include "sr/image_tool.h"
#include "sr/layers_file.h"
#include "sr/release.h"
#include "sr/volume_file.h"

/* The id in a file's name <id><suffix>, on ctx; NULL when the name is any other. */
static char *name_to_id(const void *ctx, const char *name, const char *suffix)
{
	if (strlen(name) != VOLUME_ID + strlen(suffix) || !ends_with(name, suffix))
		return NULL;
	char *id = talloc_strndup(ctx, name, VOLUME_ID);
	return volume_id_ok(id) ? id : NULL;
}

/* ---- what there is ---- */

/* A name <id><suffix> in the directory. */
typedef void each_fn(struct task *, int dir, char *id, const char *suffix, struct volumes *);

static void scan_one(struct task *t, int dir, char *id, const char *suffix, struct volumes *all)
{
	struct volume v = { .id = id };
	FD_SCOPE int fd = volume_file_openat(t, dir, id, &v.raw);
	if (fd < 0 && errno == ENOENT)
		return; /* removed since its name was read */
	const char *wrong = fd < 0 ? strerror(errno) : volume_file_inspect(t, fd, &v);
	if (!wrong && v.raw != streq(suffix, RAW_SUFFIX))
		wrong = "there is another one by that id";
	if (wrong) {
		log_line(t, "left out a file that is no volume file=%s%s because=%s", id, suffix,
			 wrong);
		return;
	}
	all->v = talloc_realloc(t, all->v, struct volume, all->n + 1);
	all->v[all->n++] = v;
}

/* Calls each() for the volume ids in the directory's names <id><suffix>. */
static int each_name(struct task *t, const struct sr *sr, const char *suffix, each_fn *each,
		     struct volumes *all)
{
	int fd = sr_directory(t, sr);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -1;
	errno = 0;
	for (struct dirent *e; task_check(t) == 0 && (e = readdir(d)); errno = 0) {
		char *id = name_to_id(t, e->d_name, suffix);
		if (id)
			each(t, fd, id, suffix, all);
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
	if (each_name(t, sr, VOLUME_SUFFIX, scan_one, &all) < 0 ||
	    each_name(t, sr, RAW_SUFFIX, scan_one, &all) < 0)
		return -1;
	*ret = all;
	return 0;
}

static int space(struct task *t, const struct sr *sr, uint64_t *ret_total, uint64_t *ret_free)
{
	struct statvfs fs;
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0)
		return -1;
	if (fstatvfs(dir, &fs) < 0)
		return task_fail_errno(t, errno, sr->path);
	*ret_total = (uint64_t)fs.f_blocks * fs.f_frsize;
	*ret_free = (uint64_t)fs.f_bavail * fs.f_frsize; /* QEMU has no share in root's reserve */
	return 0;
}

/* ---- making and removing ---- */

/* -u: nothing but the new file is opened, the one below is only written down. */
static int write_image(struct task *t, const struct sr *sr, const char *name, const char *parent,
		       uint64_t size)
{
	const char *argv[16] = { "qemu-img", "create",
				 "-q",       "-f",
				 "qcow2",    "-u",
				 "-o",       "compat=1.1,lazy_refcounts=off,preallocation=off" };
	size_t n = 8;
	if (*parent) {
		argv[n++] = "-b";
		argv[n++] = volume_file_name(t, parent);
		argv[n++] = "-F";
		argv[n++] = "qcow2";
	}
	argv[n++] = str(t, "%s/%s" UNFINISHED, sr->reach, name);
	argv[n++] = str(t, "%llu", (unsigned long long)size);
	return image_tool(t, &(struct image_tool){ sr, argv, SR_BACKEND_FAILURE_78,
						   "VDI Creation failed", false });
}

static int create(struct task *t, const struct sr *sr, const char *id, const char *parent,
		  uint64_t size)
{
	struct volume below;
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0 || sr_round_size(t, &size) < 0 || volume_file_check_new(t, dir, id) < 0 ||
	    (*parent && volume_file_stat(t, sr, parent, &below) < 0))
		return -1;
	if (*parent && below.raw)
		return sr_refuse_layer(t);
	const char *name = volume_file_name(t, id);
	FD_SCOPE int fd = volume_file_begin(t, dir, name);
	if (fd < 0)
		return -1;
	int written = write_image(t, sr, name, parent, size);
	return volume_file_finish_new(t, sr, dir, name, fd, written);
}

static int create_raw(struct task *t, const struct sr *sr, const char *id, uint64_t size)
{
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0 || sr_round_size(t, &size) < 0 || volume_file_check_new(t, dir, id) < 0)
		return -1;
	const char *name = volume_file_raw_name(t, id);
	FD_SCOPE int fd = volume_file_begin(t, dir, name);
	if (fd < 0)
		return -1;
	int written = 0;
	if (ftruncate(fd, (off_t)size) < 0)
		written = fail(t, SR_BACKEND_FAILURE_78, "",
			       str(t, "VDI Creation failed [opterr=%s]", strerror(errno)), "");
	return volume_file_finish_new(t, sr, dir, name, fd, written);
}

/* ---- bytes of ours ---- */

static int open_bytes(struct task *t, const struct sr *sr, const char *id, bool writable,
		      int *ret_fd)
{
	bool raw;
	FD_SCOPE int fd = volume_file_open(t, sr, id, &raw);
	if (fd < 0)
		return -1;
	if (!raw)
		return volume_file_refuse(t, id, "it is no raw volume");
	int bytes =
		open(str(t, "/proc/self/fd/%d", fd), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (bytes < 0)
		return task_fail_errno(t, errno, id);
	*ret_fd = bytes;
	return 0;
}

/* A second name of the file. */
static int share(struct task *t, const struct sr *sr, const char *id, const char *new_id)
{
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0 || volume_file_check_new(t, dir, new_id) < 0)
		return -1;
	const char *from = volume_file_raw_name(t, id), *to = volume_file_raw_name(t, new_id);
	if (linkat(dir, from, dir, to, 0) < 0)
		return errno == ENOENT ? fail(t, VDI_MISSING, sr->uuid, id)
				       : task_fail_errno(t, errno, from);
	return sync_file(dir, SYNC_VOLUME_NAME) < 0 ? task_fail_errno(t, errno, sr->path) : 0;
}

static int remove_name(struct task *t, int dir, const char *name)
{
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	return fail(t, SR_BACKEND_FAILURE_80, "",
		    str(t, "Failed to delete the VDI [opterr=%s: %s]", name, strerror(errno)), "");
}

/* Also what a create of this id left unfinished when it was killed. */
static int remove_volume(struct task *t, const struct sr *sr, const char *id)
{
	if (!volume_id_ok(id))
		return 0;
	const char *names[] = {
		volume_file_name(t, id),
		volume_file_raw_name(t, id),
		str(t, "%s" VOLUME_SUFFIX UNFINISHED, id),
		str(t, "%s" RAW_SUFFIX UNFINISHED, id),
	};
	FD_SCOPE int dir = sr_directory(t, sr);
	int large[COUNT(names)], result = dir < 0 ? -1 : 0;
	for (size_t i = 0; i < COUNT(names); i++)
		large[i] = dir < 0 ? -1 : release_begin(dir, names[i]);
	for (size_t i = 0; result == 0 && i < COUNT(names); i++)
		result = remove_name(t, dir, names[i]);
	if (result == 0 && sync_file(dir, SYNC_VOLUME_GONE) < 0)
		result = task_fail_errno(t, errno, sr->path);
	for (size_t i = 0; i < COUNT(names); i++)
		release(large[i]);
	return result;
}

static void tidy_one(struct task *t, int dir, char *id, const char *suffix, struct volumes *unused)
{
	(void)unused;
	const char *name = str(t, "%s%s", id, suffix);
	bool gone = unlinkat(dir, name, 0) == 0;
	log_line(t, "%s an unfinished volume file=%s", gone ? "removed" : "could not remove", name);
}

/* Not in scan: the file might be that of a create at work. */
static int tidy(struct task *t, const struct sr *sr)
{
	if (each_name(t, sr, VOLUME_SUFFIX UNFINISHED, tidy_one, NULL) < 0)
		return -1;
	return each_name(t, sr, RAW_SUFFIX UNFINISHED, tidy_one, NULL);
}

static int sync_volume(struct task *t, const struct sr *sr, const char *id)
{
	return volume_file_durable(t, sr, id, SYNC_VOLUME_WRITTEN);
}

/* ---- how QEMU opens it ---- */

static int blockdev(struct task *t, const struct sr *sr, const char *id, bool writable,
		    json_t **ret)
{
	struct volumes chain;
	if (volume_file_chain(t, sr, id, &chain) < 0)
		return -1;
	json_t *layers = json_own(t, json_array());
	for (size_t i = chain.n; i-- > 0;) {
		const struct volume *v = &chain.v[i];
		json_array_append_new(layers, volume_file_layer(t, sr, v, volume_file_name_of(t, v),
								i == 0 && writable));
	}
	*ret = layers;
	return 0;
}

/* ---- growing ---- */

/* The layers below are left out: they end where the volume did, and have nothing to show behind that. */
static int grow_image(struct task *t, const struct sr *sr, const struct volume *v, uint64_t size)
{
	return image_tool(t,
			  &(struct image_tool){
				  sr,
				  RUN_ARGV("qemu-img", "resize", "-q", volume_file_alone(t, sr, v),
					   str(t, "%llu", (unsigned long long)size)),
				  SR_BACKEND_FAILURE_110, "VDI resize failed", false });
}

static int resize(struct task *t, const struct sr *sr, const char *id, uint64_t size)
{
	struct volume v, below = { 0 };
	if (sr_round_size(t, &size) < 0 || volume_file_stat(t, sr, id, &v) < 0 ||
	    (*v.parent && volume_file_stat(t, sr, v.parent, &below) < 0))
		return -1;
	if (below.virtual_size > v.virtual_size)
		return volume_file_refuse(t, id, "it is smaller than what it is a layer over");
	return grow_image(t, sr, &v, size) < 0 ? -1 : sync_volume(t, sr, id);
}

const struct layout layout_file = {
	.scan = scan,
	.stat = volume_file_stat,
	.space = space,
	.create = create,
	.create_raw = create_raw,
	.open = open_bytes,
	.share = share,
	.remove = remove_volume,
	.blockdev = blockdev,
	.sync = sync_volume,
	.resize = resize,
	.tidy = tidy,
	.link = layers_file_link,
	.relink = layers_file_relink,
	.merge = layers_file_merge,
	.clone = layers_file_clone,
	.extents = layers_file_extents,
	.list = check_file_list,
	.discard = check_file_discard,
	.check = check_file,
};
