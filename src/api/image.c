// SPDX-License-Identifier: Apache-2.0
#include "api/image.h"

#include "archive/blocks.h"
#include "archive/image.h"
#include "archive/qcow2_stream.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/disk.h"
#include "sr/sr.h"

static const struct image_format formats[] = {
	{
		.name = "raw",
		.content_type = "application/octet-stream",
		.judge = image_judge_raw,
		.pour = image_pour_raw,
	},
	{
		.name = "qcow2",
		.content_type = "application/x-qemu-disk",
		.bits = QCOW2_STREAM_BITS,
		.length = qcow2_stream_length,
		.write = qcow2_stream_write,
		.judge = image_judge_qcow2,
		.pour = image_pour_qcow2,
	},
	{
		.name = "vhd",
		.content_type = "application/vhd",
		.bits = VHD_BITS,
		.limit = VHD_SIZE_MAX,
		.length = vhd_length,
		.write = vhd_write,
		.judge = image_judge_vhd,
		.pour = image_pour_vhd,
	},
};

const struct image_format image_chunked = {
	.name = "raw",
	.judge = image_judge_chunks,
	.pour = image_pour_chunks,
};

const struct image_format *image_format(struct task *t, const char *name)
{
	struct list names = { 0 };
	for (size_t i = 0; i < COUNT(formats); i++) {
		if (streq(formats[i].name, name))
			return &formats[i];
		list_add(t, &names, formats[i].name);
	}
	return fail_ptr(t, VALUE_NOT_SUPPORTED, "format", name,
			str(t, "the formats are %s", list_join(t, &names, ", ")));
}

/* ---- a disk for archive/ ---- */

struct adapter {
	struct image_disk image;
	struct disk *disk;
};

static struct disk *disk_of(struct image_disk *image)
{
	return ((struct adapter *)image)->disk;
}

static int extent(struct task *t, struct image_disk *i, uint64_t at, uint64_t limit,
		  uint64_t *ret_n, bool *ret_data)
{
	return disk_extent(t, disk_of(i), at, limit, ret_n, ret_data);
}

static int read_disk(struct task *t, struct image_disk *i, uint64_t at, void *to, size_t n)
{
	return disk_read(t, disk_of(i), at, to, n);
}

static int write_disk(struct task *t, struct image_disk *i, uint64_t at, const void *from, size_t n)
{
	return disk_write(t, disk_of(i), at, from, n);
}

static int zero_disk(struct task *t, struct image_disk *i, uint64_t at, uint64_t n)
{
	return disk_zero(t, disk_of(i), at, n);
}

struct image_disk *image_disk_of(const void *ctx, struct disk *d)
{
	struct adapter *a = talloc(ctx, struct adapter);
	*a = (struct adapter){
		.image = { disk_size(d), extent, read_disk, write_disk, zero_disk },
		.disk = d,
	};
	return &a->image;
}

/* ---- out ---- */

static int send_all(struct task *t, struct disk *d, const struct image_format *f,
		    const struct blocks *b, struct stream *out)
{
	return b ? f->write(t, b, image_disk_of(t, d), out) : disk_send(t, d, out);
}

static int export_disk(struct task *t, struct disk *d, const struct image_format *f,
		       struct outlet *out)
{
	struct stream s;
	const struct blocks *b = f->bits ? blocks_of(t, image_disk_of(t, d), f->bits) : NULL;
	if (f->bits && !b)
		return -1;
	uint64_t length = b ? f->length(b) : disk_size(d);
	if (out->begin(t, out, length) < 0)
		return -1;
	stream_begin(&s, out->fd, length);
	s.last = &out->last;
	int result = send_all(t, d, f, b, &s);
	stream_end(&s);
	return result;
}

int image_export(struct task *t, const struct sr *sr, const char *volume,
		 const struct image_format *f, struct outlet *out)
{
	struct disk *d = disk_open(t, sr, volume, false);
	if (!d)
		return -1;
	return disk_close(t, d, export_disk(t, d, f, out));
}
