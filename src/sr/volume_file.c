// SPDX-License-Identifier: Apache-2.0
#include "sr/volume_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/header.h"

char *volume_file_name(const void *ctx, const char *id)
{
	return str(ctx, "%s" VOLUME_SUFFIX, id);
}

char *volume_file_raw_name(const void *ctx, const char *id)
{
	return str(ctx, "%s" RAW_SUFFIX, id);
}

const char *volume_file_name_of(const void *ctx, const struct volume *v)
{
	return v->raw ? volume_file_raw_name(ctx, v->id) : volume_file_name(ctx, v->id);
}

char *volume_file_path(const void *ctx, const struct sr *sr, const char *id)
{
	return str(ctx, "%s/%s" VOLUME_SUFFIX, sr->reach, id);
}

int volume_file_refuse(struct task *t, const char *id, const char *why)
{
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", id, why), "");
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

static const char *inspect_once(const void *ctx, int fd, struct volume *ret)
{
	unsigned char start[HEADER_BYTES];
	struct header h;
	struct stat st;
	char parent[VOLUME_ID + 1];
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

/* Nothing of it is read. */
static const char *inspect_raw(const void *ctx, const struct stat *st, struct volume *ret)
{
	if (st->st_size == 0 || st->st_size % 512)
		return "its size is no multiple of 512";
	if ((uint64_t)st->st_size > HEADER_SIZE_MAX)
		return "its disk size is out of range";
	ret->parent = talloc_strdup(ctx, "");
	ret->virtual_size = (uint64_t)st->st_size;
	/* Its part, where volumes share the file. */
	ret->physical_size = (uint64_t)st->st_blocks * 512 / (st->st_nlink ? st->st_nlink : 1);
	return NULL;
}

/* The same twice before it is called unsound: QEMU rewrites a header when it merges layers, and a
 * read may see half of it. */
const char *volume_file_inspect(const void *ctx, int fd, struct volume *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return "not a regular file";
	if (ret->raw)
		return inspect_raw(ctx, &st, ret);
	if (!inspect_once(ctx, fd, ret))
		return NULL;
	delay_sleep(DELAY_INSPECT_AGAIN);
	return inspect_once(ctx, fd, ret);
}

/* O_NONBLOCK: a FIFO by that name must not hold us up. */
int volume_file_openat(struct task *t, int dir, const char *id, bool *ret_raw)
{
	enum { HOW = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };
	int fd = openat(dir, volume_file_name(t, id), HOW);
	*ret_raw = fd < 0 && errno == ENOENT;
	return *ret_raw ? openat(dir, volume_file_raw_name(t, id), HOW) : fd;
}

int volume_file_open(struct task *t, const struct sr *sr, const char *id, bool *ret_raw)
{
	if (!volume_id_ok(id))
		return fail(t, VDI_MISSING, sr->uuid, id);
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0)
		return -1;
	int fd = volume_file_openat(t, dir, id, ret_raw);
	if (fd < 0 && errno == ENOENT)
		return fail(t, VDI_MISSING, sr->uuid, id);
	if (fd < 0)
		return volume_file_refuse(t, id,
					  errno == ELOOP ? "a symbolic link" : strerror(errno));
	return fd;
}

int volume_file_stat(struct task *t, const struct sr *sr, const char *id, struct volume *ret)
{
	struct volume v = { .id = talloc_strdup(t, id) };
	FD_SCOPE int fd = volume_file_open(t, sr, id, &v.raw);
	if (fd < 0)
		return -1;
	const char *wrong = volume_file_inspect(t, fd, &v);
	if (wrong)
		return volume_file_refuse(t, id, wrong);
	*ret = v;
	return 0;
}

int volume_file_writer(int fd)
{
	enum { WRITERS_BYTE = 100 + 1 }; /* RAW_LOCK_PERM_BASE and BLK_PERM_WRITE of QEMU */
	struct flock l = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = WRITERS_BYTE,
		.l_len = 1,
	};
	if (fcntl(fd, F_OFD_GETLK, &l) < 0)
		return -1;
	return l.l_type != F_UNLCK;
}

int volume_file_chain(struct task *t, const struct sr *sr, const char *id, struct volumes *ret)
{
	struct volumes chain = { 0 };
	struct volume v = { .parent = id };
	do {
		if (chain.n == CHAIN_MAX)
			return volume_file_refuse(t, id,
						  "too many layers, or they run in a circle");
		if (task_check(t) < 0 || volume_file_stat(t, sr, v.parent, &v) < 0)
			return -1;
		if (v.raw && chain.n)
			return fail(t, VDI_MISSING, sr->uuid, v.id);
		chain.v = talloc_realloc(t, chain.v, struct volume, chain.n + 1);
		chain.v[chain.n++] = v;
	} while (*v.parent);
	*ret = chain;
	return 0;
}

/* The protocol node takes read-only and discard from the format node it stands in: when layers are
 * merged QEMU opens the file again for writing, which a read-only of its own would forbid.
 * discard is for the frozen layers too: a merge into them can give space back then. */
json_t *volume_file_layer(struct task *t, const struct sr *sr, const struct volume *v,
			  const char *name, bool writable)
{
	json_t *backing = v->raw       ? NULL
			  : *v->parent ? json_string(volume_node(t, v->parent))
				       : json_null();
	/* clang-format off */
	return json_pack("{s:s, s:s, s:b, s:o*, s:s, s:s, s:{s:b, s:b}, s:{s:s, s:s, s:s, s:{s:b, s:b}}}",
			 "driver", v->raw ? "raw" : "qcow2",
			 "node-name", volume_node(t, v->id),
			 "read-only", !writable,
			 "backing", backing,
			 "discard", "unmap",
			 "detect-zeroes", "off",
			 "cache", "direct", sr->direct, "no-flush", false,
			 "file", "driver", "file",
				 "filename", str(t, "%s/%s", sr->reach, name),
				 "locking", "on",
				 "cache", "direct", sr->direct, "no-flush", false);
	/* clang-format on */
}

const char *volume_file_alone(struct task *t, const struct sr *sr, const struct volume *v)
{
	json_t *alone = json_own(t, volume_file_layer(t, sr, v, volume_file_name_of(t, v), true));
	if (!v->raw)
		json_object_set_new(alone, "backing", json_null());
	return str(t, "json:%s", json_text(t, alone));
}

/* ---- a file becomes a volume ---- */

/* It is there and 0600 before anyone fills it: it never stands open to others.  Always a new file: one
 * that could not be removed when it failed goes now. */
int volume_file_begin(struct task *t, int dir, const char *name)
{
	const char *unfinished = str(t, "%s" UNFINISHED, name);
	if (unlinkat(dir, unfinished, 0) < 0 && errno != ENOENT)
		return task_fail_errno(t, errno, unfinished);
	int fd =
		openat(dir, unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? task_fail_errno(t, errno, unfinished) : fd;
}

int volume_file_finish(struct task *t, const struct sr *sr, int dir, const char *name, int fd,
		       int written)
{
	const char *unfinished = str(t, "%s" UNFINISHED, name);
	if (written == 0 &&
	    (sync_file(fd, SYNC_VOLUME_CONTENT) < 0 || renameat(dir, unfinished, dir, name) < 0))
		written = task_fail_errno(t, errno, unfinished);
	if (written < 0)
		unlinkat(dir, unfinished, 0);
	else if (sync_file(dir, SYNC_VOLUME_NAME) < 0)
		written = task_fail_errno(t, errno, sr->path);
	return written;
}

int volume_file_finish_new(struct task *t, const struct sr *sr, int dir, const char *name, int fd,
			   int written)
{
	int result = volume_file_finish(t, sr, dir, name, fd, written);
	if (result < 0)
		unlinkat(dir, name, 0);
	return result;
}

int volume_file_check_new(struct task *t, int dir, const char *id)
{
	if (!volume_id_ok(id))
		return fail(t, INTERNAL_ERROR, str(t, "%.100s is no volume's id", id));
	if (faccessat(dir, volume_file_name(t, id), F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
	    faccessat(dir, volume_file_raw_name(t, id), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return fail(t, SR_BACKEND_FAILURE_78, "",
			    str(t, "VDI Creation failed [opterr=%s is there already]", id), "");
	return 0;
}

int volume_file_durable(struct task *t, const struct sr *sr, const char *id, enum sync_site site)
{
	bool raw;
	FD_SCOPE int fd = volume_file_open(t, sr, id, &raw);
	if (fd < 0)
		return -1;
	return sync_data(fd, site) < 0 ? task_fail_errno(t, errno, id) : 0;
}
