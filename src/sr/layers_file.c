// SPDX-License-Identifier: Apache-2.0
/* layers_file.c -- what qemu-img does to the layers of layout_file when nobody has them open.
 *
 * It writes the new name of the volume below into a header before the tables that make the copied data
 * reachable, so a header alone proves nothing: what was below is kept until the merge has returned, and
 * a merge that did not is taken back by relinking to it.
 *
 *     up      rebase: copies into the volume what it would no longer see, then changes the name.  That
 *             is done to a clone of the file, which takes the volume's name when it is durable: so a
 *             loss of power cannot show tables whose data was not yet written.
 *     down    commit: copies into the lower one.  The upper one goes on hiding what is half copied.
 *
 * The name that lands in a header is one without a folder.  qemu-img takes such a one only for an image
 * whose own name is a path, and its name is that of a json: description as soon as this tells which
 * files are below.  So the description ends with the top, and qemu-img follows the names in the headers,
 * each of which was read here a moment before. */
#include "sr/layers_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/image_tool.h"
#include "sr/volume_file.h"

const char *layers_file_link(const void *ctx, const char *id)
{
	return *id ? volume_file_name(ctx, id) : "";
}

static int merge_tool(struct task *t, const struct sr *sr, const char *const *argv, bool slow)
{
	return image_tool(t, &(struct image_tool){ sr, argv, SR_BACKEND_FAILURE_46,
						   "The VDI is not available", slow });
}

/* ---- another name in the header ---- */

/* The file alone, whatever its header says that is below. */
static int write_link(struct task *t, const struct sr *sr, const struct volume *v,
		      const char *parent)
{
	return merge_tool(t, sr,
			  RUN_ARGV("qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b",
				   layers_file_link(t, parent), volume_file_alone(t, sr, v)),
			  false);
}

int layers_file_relink(struct task *t, const struct sr *sr, const char *id, const char *parent)
{
	struct volume v, below;
	if (volume_file_stat(t, sr, id, &v) < 0 ||
	    (*parent && volume_file_stat(t, sr, parent, &below) < 0))
		return -1;
	if (v.raw || (*parent && below.raw))
		return sr_refuse_layer(t);
	if (streq(parent, id))
		return volume_file_refuse(t, id, "it cannot be a layer over itself");
	if (!streq(v.parent, parent) && write_link(t, sr, &v, parent) < 0)
		return -1;
	return volume_file_durable(t, sr, id, SYNC_VOLUME_LINK);
}

/* ---- merging ---- */

/* How many of the chain are merged, down to m->lower, which is the last of them; all for "". */
static int find_run(struct task *t, const struct sr_merge *m, struct volumes *chain)
{
	size_t n = 1;
	while (n <= chain->n && !streq(chain->v[n - 1].id, m->lower))
		n++;
	if (n <= chain->n && n > 1)
		chain->n = n;
	else if (*m->lower || m->down)
		return volume_file_refuse(t, m->upper, str(t, "it is no layer over %s", m->lower));
	return 0;
}

/* What is written, and what lies between, shows something else from then on: nobody else may stand on it. */
static int check_alone(struct task *t, const struct sr *sr, const struct volumes *run)
{
	struct volumes all;
	if (sr->layout->scan(t, sr, &all) < 0)
		return -1;
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 1; k < run->n; k++)
			if (streq(all.v[i].parent, run->v[k].id) &&
			    !streq(all.v[i].id, run->v[k - 1].id))
				return volume_file_refuse(t, run->v[k].id,
							  str(t, "%s is a layer over it too",
							      all.v[i].id));
	return 0;
}

/* The first of the run by name, with the layers below as their headers tell.  Zeros that are written to any of
 * them become holes. */
static const char *describe(struct task *t, const struct sr *sr, const struct volumes *run,
			    const char *name)
{
	json_t *below = NULL;
	for (size_t i = 1; i < run->n; i++) {
		json_t *this = json_pack("{s:s}", "discard", "unmap");
		if (below)
			json_object_set_new(this, "backing", below);
		below = this;
	}
	json_t *top = json_own(t, volume_file_layer(t, sr, &run->v[0], name, true));
	json_object_del(top, "backing");
	if (below)
		json_object_set_new(top, "backing", below);
	return str(t, "json:%s", json_text(t, top));
}

static int merge_down(struct task *t, const struct sr *sr, const struct volumes *run)
{
	const struct volume *upper = &run->v[0], *lower = &run->v[run->n - 1];
	if (upper->virtual_size < lower->virtual_size)
		return volume_file_refuse(t, upper->id,
					  "it is smaller than what it is a layer over");
	if (check_alone(t, sr, run) < 0)
		return -1;
	/* -d: the upper one is not emptied. */
	if (merge_tool(t, sr,
		       RUN_ARGV("qemu-img", "commit", "-p", "-d", "-b",
				volume_file_path(t, sr, lower->id),
				describe(t, sr, run, volume_file_name(t, upper->id))),
		       true) < 0)
		return -1;
	return volume_file_durable(t, sr, lower->id, SYNC_MERGED_DOWN);
}

static int rebase(struct task *t, const struct sr *sr, const struct volumes *run, const char *name,
		  const char *lower)
{
	struct volumes top = { 1, run->v }; /* the others are only read */
	return merge_tool(t, sr,
			  RUN_ARGV("qemu-img", "rebase", "-p", "-F", "qcow2", "-b",
				   layers_file_link(t, lower), describe(t, sr, &top, name)),
			  true);
}

static int share_blocks(struct task *t, int from, int to, const char *name)
{
	return ioctl(to, FICLONE, from) < 0 ? task_fail_errno(t, errno, name) : 0;
}

/* What is written to a file that loses its name is lost. */
static int check_no_writer(struct task *t, int fd, const char *id)
{
	int writer = volume_file_writer(fd);
	if (writer < 0)
		return task_fail_errno(t, errno, id);
	return writer ? volume_file_refuse(t, id, "a program has a lock on it") : 0;
}

static int merge_up(struct task *t, const struct sr *sr, const struct volumes *run,
		    const char *lower)
{
	const char *id = run->v[0].id, *name = volume_file_name(t, id);
	FD_SCOPE int dir = sr_directory(t, sr);
	bool raw;
	FD_SCOPE int from = dir < 0 ? -1 : volume_file_open(t, sr, id, &raw);
	if (from < 0 || check_no_writer(t, from, id) < 0)
		return -1;
	FD_SCOPE int fd = volume_file_begin(t, dir, name);
	if (fd < 0)
		return -1;
	int written = share_blocks(t, from, fd, name);
	if (written == 0)
		written = rebase(t, sr, run, str(t, "%s" UNFINISHED, name), lower);
	return volume_file_finish(t, sr, dir, name, fd, written);
}

int layers_file_merge(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	struct volumes run;
	if (volume_file_chain(t, sr, m->upper, &run) < 0 || find_run(t, m, &run) < 0)
		return -1;
	if (run.v[0].raw)
		return sr_refuse_layer(t);
	if (!m->down && !sr->reflink)
		return volume_file_refuse(t, m->upper,
					  "the SR cannot clone it to be merged up into");
	return m->down ? merge_down(t, sr, &run) : merge_up(t, sr, &run, m->lower);
}

/* ---- shared blocks ---- */

int layers_file_clone(struct task *t, const struct sr *sr, const char *id, const char *new_id)
{
	FD_SCOPE int dir = sr_directory(t, sr);
	struct volume v;
	FD_SCOPE int from = dir < 0 ? -1 : volume_file_open(t, sr, id, &v.raw);
	if (from < 0 || volume_file_stat(t, sr, id, &v) < 0 ||
	    volume_file_check_new(t, dir, new_id) < 0)
		return -1;
	if (v.raw)
		return sr_refuse_layer(t);
	const char *name = volume_file_name(t, new_id);
	FD_SCOPE int fd = volume_file_begin(t, dir, name);
	if (fd < 0)
		return -1;
	return volume_file_finish_new(t, sr, dir, name, fd, share_blocks(t, from, fd, name));
}

/* The kernel counts all of them at once when it is asked for the number: in pieces it can be stopped. */
int layers_file_extents(struct task *t, const struct sr *sr, const char *id, uint64_t limit,
			uint64_t *ret)
{
	enum { PIECE = 256 };
	bool raw;
	FD_SCOPE int fd = volume_file_open(t, sr, id, &raw);
	if (fd < 0)
		return -1;
	struct fiemap *map = talloc_zero_size(t, sizeof *map + PIECE * sizeof *map->fm_extents);
	uint64_t n = 0;
	for (bool last = false; !last && n < limit; n += map->fm_mapped_extents) {
		map->fm_length = FIEMAP_MAX_OFFSET - map->fm_start;
		map->fm_extent_count = PIECE;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return task_fail_errno(t, errno, volume_file_name(t, id));
		if (map->fm_mapped_extents == 0)
			break;
		const struct fiemap_extent *e = &map->fm_extents[map->fm_mapped_extents - 1];
		last = e->fe_flags & FIEMAP_EXTENT_LAST;
		map->fm_start = e->fe_logical + e->fe_length;
	}
	*ret = n < limit ? n : limit;
	return 0;
}
