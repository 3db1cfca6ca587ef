// SPDX-License-Identifier: Apache-2.0
/* layout_file.c -- a volume is a file <id>.qcow2; the one below it is named in its header,
 * relative to the folder, so that the folder can be moved.  While it is made it is called
 * <id>.qcow2.new, which goes with it when it is removed. */
#include "sr/layout_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/header.h"

enum { CREATE_MS = 60000, DEPTH_LIMIT = 1000 };

const char *volume_path(struct task *t, const struct sr *sr, const char *id)
{
	return str(t, "%s/%s.qcow2", sr->path, id);
}

/* ---- looking ---- */

static int unsound(struct task *t, const char *path, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", path, why), "");
}

static int read_volume(struct task *t, int fd, const char *path, const char *id, struct volume *ret)
{
	struct stat st;
	struct header h;
	char parent[25];
	uint8_t *bytes = talloc_array(t, uint8_t, HEADER_BYTES);
	ssize_t n = pread(fd, bytes, HEADER_BYTES, 0);
	if (n < 0 || fstat(fd, &st) < 0)
		return task_fail_errno(t, errno, path);
	if (!S_ISREG(st.st_mode))
		return unsound(t, path, "not a regular file");
	const char *why = header_read(bytes, (size_t)n, &h);
	talloc_free(bytes);
	if (!why && !header_is_volume(&h, parent))
		why = "it names a file that is no volume of this SR";
	if (why)
		return unsound(t, path, why);
	*ret = (struct volume){
		.id = talloc_strdup(t, id),
		.parent = talloc_strdup(t, parent),
		.virtual_size = h.virtual_size,
		.physical_size = (uint64_t)st.st_blocks * 512,
	};
	return 0;
}

static int file_stat(struct task *t, const struct sr *sr, const char *id, struct volume *ret)
{
	const char *path = volume_path(t, sr, id);
	FD_SCOPE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return fail(t, VDI_MISSING, sr->uuid, id);
	if (fd < 0)
		return task_fail_errno(t, errno, path);
	return read_volume(t, fd, path, id, ret);
}

/* The id in a name like <id>.qcow2 or <id>.qcow2.new, or NULL. */
static const char *id_of(struct task *t, const char *name, const char *suffix)
{
	if (strlen(name) != 24 + strlen(suffix) || !ends_with(name, suffix))
		return NULL;
	const char *id = talloc_strndup(t, name, 24);
	return volume_id_ok(id) ? id : NULL;
}

static void scan_entry(struct task *t, const struct sr *sr, const char *name, struct volumes *all)
{
	struct volume v;
	const char *id = id_of(t, name, ".qcow2");
	if (!id)
		return;
	if (file_stat(t, sr, id, &v) < 0) {
		log_line(t, "volume left out sr=%s error=\"%s\"", sr->uuid, task_error(t));
		task_forgive(t);
		return;
	}
	all->v = talloc_realloc(t, all->v, struct volume, all->n + 1);
	all->v[all->n++] = v;
}

static int file_scan(struct task *t, const struct sr *sr, struct volumes *ret)
{
	struct volumes all = { 0 };
	DIR *dir = opendir(sr->path);
	if (!dir)
		return fail(t, SR_BACKEND_FAILURE_40, "",
			    str(t, "The SR scan failed [opterr=%s: %s]", sr->path, strerror(errno)), "");
	for (struct dirent *e; (e = readdir(dir)) != NULL;)
		scan_entry(t, sr, e->d_name, &all);
	closedir(dir);
	*ret = all;
	return 0;
}

static int file_space(struct task *t, const struct sr *sr, uint64_t *ret_total, uint64_t *ret_free)
{
	struct statvfs v;
	if (statvfs(sr->path, &v) < 0)
		return task_fail_errno(t, errno, sr->path);
	*ret_total = (uint64_t)v.f_blocks * v.f_frsize;
	*ret_free = (uint64_t)v.f_bavail * v.f_frsize;
	return 0;
}

/* ---- making and removing ---- */

static int run_create(struct task *t, const char *path, const char *parent, uint64_t size)
{
	const char *bytes = str(t, "%llu", (unsigned long long)size);
	const char *backing = str(t, "%s.qcow2", parent);
	struct run r = {
		/* -u: the file below is named, not opened. */
		.argv = *parent ? RUN_ARGV("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing,
					   "-F", "qcow2", path, bytes)
				: RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", path, bytes),
		.in = -1,
		.out = -1,
		.timeout_ms = CREATE_MS,
	};
	if (run(t, &r) < 0)
		return -1;
	if (r.ret_status == 0)
		return 0;
	if (strstr(r.ret_err, "No space left") || strstr(r.ret_err, "quota exceeded"))
		return task_fail_errno(t, ENOSPC, path);
	return fail(t, SR_BACKEND_FAILURE_78, "",
		    str(t, "VDI Creation failed [opterr=%.500s]", r.ret_err), "");
}

/* qemu-img leaves small images in the page cache; on a full disk the blocks are missed only now. */
static int make_durable(struct task *t, const char *temp, const char *path)
{
	if (chmod(temp, 0600) < 0)
		return task_fail_errno(t, errno, temp);
	if (file_sync(t, temp) < 0)
		return -1;
	if (rename(temp, path) < 0)
		return task_fail_errno(t, errno, path);
	const char *folder = talloc_strndup(t, path, (size_t)(strrchr(path, '/') - path));
	return file_sync(t, folder);
}

static uint64_t round_up(uint64_t size)
{
	return (size + 511) & ~(uint64_t)511;
}

static int file_create(struct task *t, const struct sr *sr, const char *id, const char *parent,
		       uint64_t size)
{
	const char *path = volume_path(t, sr, id), *temp = str(t, "%s.new", path);
	if (size == 0 || size > MAX_VIRTUAL)
		return fail(t, SR_BACKEND_FAILURE_79, "",
			    str(t, "VDI Invalid size [opterr=%s; at most %s]", size_str(t, size),
				size_str(t, MAX_VIRTUAL)), "");
	if (file_exists(path))
		return fail(t, SR_BACKEND_FAILURE_78, "", "VDI Creation failed [opterr=it exists]", "");
	if (run_create(t, temp, parent, round_up(size)) == 0 && make_durable(t, temp, path) == 0)
		return 0;
	unlink(temp);
	return -1;
}

static int file_remove(struct task *t, const struct sr *sr, const char *id)
{
	unlink(str(t, "%s.new", volume_path(t, sr, id)));
	return file_delete(t, volume_path(t, sr, id));
}

/* ---- for QEMU ---- */

static json_t *node(struct task *t, const struct sr *sr, const struct volume *v, bool read_only)
{
	return json_pack("{s:s, s:s, s:b, s:s, s:o, s:{s:s, s:s, s:s, s:b, s:b, s:s, s:{s:b}}, s:{s:b}}",
			 "driver", "qcow2", "node-name", volume_node(t, v->id), "read-only", read_only,
			 "discard", "unmap", "backing",
			 *v->parent ? json_string(volume_node(t, v->parent)) : json_null(), "file",
			 "driver", "file", "filename", volume_path(t, sr, v->id), "aio", "threads",
			 "read-only", read_only, "auto-read-only", false, "discard", "unmap", "cache",
			 "direct", sr->direct, "cache", "direct", sr->direct);
}

static int file_blockdev(struct task *t, const struct sr *sr, const char *id, bool writable,
			 json_t **ret)
{
	json_t *layers = json_own(t, json_array());
	struct volume v = { .parent = id };
	for (int depth = 0; *v.parent; depth++) {
		if (depth == DEPTH_LIMIT)
			return unsound(t, volume_path(t, sr, id), "its chain is endless");
		if (file_stat(t, sr, v.parent, &v) < 0)
			return -1;
		json_array_insert_new(layers, 0, node(t, sr, &v, depth > 0 || !writable));
	}
	*ret = layers;
	return 0;
}

static int file_sync_volume(struct task *t, const struct sr *sr, const char *id)
{
	return file_datasync(t, volume_path(t, sr, id));
}

const struct layout layout_file = {
	.scan = file_scan,
	.stat = file_stat,
	.space = file_space,
	.create = file_create,
	.remove = file_remove,
	.blockdev = file_blockdev,
	.sync = file_sync_volume,
};
