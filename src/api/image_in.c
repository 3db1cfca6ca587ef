// SPDX-License-Identifier: Apache-2.0
#include "api/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/disk.h"
#include "sr/header.h"
#include "sr/sr.h"

enum {
	PIECE = 1 << 20,
	HOLE = 4096,
	HEAD_MAX = 32 << 20, /* of a stream, kept while it is judged */
	TABLES = 64 << 20,   /* what an image may have beside twice its disk */
	NEEDS_FILE = 1,
};

static int refuse(struct task *t, const struct intake *i, const char *wrong)
{
	return fail(t, IMPORT_ERROR, str(t, "the %s image is refused: %s", i->format->name, wrong));
}

static int too_small(struct task *t, const struct intake *i, uint64_t size)
{
	return fail(t, VDI_TOO_SMALL, i->vdi, str(t, "%llu", (unsigned long long)size));
}

/* ---- a file without a name ---- */

/* What is zero remains a hole. */
static int put_spool(struct task *t, struct intake *i, const void *from, size_t n)
{
	for (size_t done = 0, part; done < n; done += part) {
		const char *bytes = (const char *)from + done;
		part = n - done < HOLE ? n - done : HOLE;
		if (is_zero(bytes, part))
			continue;
		ssize_t put = pwrite(i->spool, bytes, part, (off_t)(i->spooled + done));
		if (put != (ssize_t)part)
			return task_fail_errno(t, put < 0 ? errno : ENOSPC, i->sr->path);
	}
	i->spooled += n;
	return 0;
}

/* All of the stream, what was read of it already first; no image of a disk of `size` bytes is much larger
 * than twice that. */
static int spool(struct task *t, struct intake *i, uint64_t size)
{
	char *piece = talloc_array(t, char, PIECE);
	uint64_t limit = 2 * size + TABLES;
	ssize_t got = PIECE;
	task_span(t, 0, 0.5);
	i->spool = sr_nameless_file(t, i->sr);
	if (i->spool < 0 || put_spool(t, i, i->head, i->head_n) < 0)
		return -1;
	while (got == PIECE) {
		if (i->in.length != STREAM_OPEN ? i->in.length > limit : i->spooled > limit)
			return refuse(t, i,
				      str(t, "it has more than %llu bytes, for a disk of %llu",
					  (unsigned long long)limit, (unsigned long long)size));
		got = stream_some(t, &i->in, piece, PIECE);
		if (got < 0 || put_spool(t, i, piece, (size_t)got) < 0)
			return -1;
	}
	talloc_free(piece);
	if (ftruncate(i->spool, (off_t)i->spooled) < 0)
		return task_fail_errno(t, errno, i->sr->path);
	return 0;
}

/* ---- looking at an image ---- */

/* At least n bytes of the stream's beginning, or all that there are, are in head. */
static int keep_head(struct task *t, struct intake *i, size_t n)
{
	if (n <= i->head_n)
		return 0;
	i->head = talloc_realloc(t, i->head, unsigned char, n);
	ssize_t got = stream_some(t, &i->in, i->head + i->head_n, n - i->head_n);
	if (got < 0)
		return -1;
	i->head_n += (size_t)got;
	return 0;
}

static uint64_t file_size(const struct intake *i)
{
	return i->spool >= 0 ? i->spooled : i->in.length;
}

/* n bytes of the image.  NEEDS_FILE: they are too far away in a stream. */
static int look(struct task *t, struct intake *i, uint64_t at, size_t n, void *to)
{
	if (n > file_size(i) || at > file_size(i) - n)
		return refuse(t, i,
			      str(t, "it ends at %llu, in front of a part of %zu bytes at %llu",
				  (unsigned long long)file_size(i), n, (unsigned long long)at));
	if (i->spool < 0 && at + n > HEAD_MAX)
		return NEEDS_FILE;
	if (i->spool < 0) {
		if (keep_head(t, i, (size_t)at + n) < 0)
			return -1;
		memcpy(to, i->head + at, n);
		return 0;
	}
	ssize_t got = pread(i->spool, to, n, (off_t)at);
	return got == (ssize_t)n ? 0 : task_fail_errno(t, got < 0 ? errno : EIO, "the image");
}

/* ---- vhd ---- */

/* The footer's copy at the beginning, or else the footer. */
static int look_footer(struct task *t, struct intake *i, unsigned char *footer)
{
	int result = look(t, i, 0, VHD_FOOTER, footer);
	if (result || memcmp(footer, "conectix", 8) == 0)
		return result;
	return i->spool < 0 ? NEEDS_FILE : look(t, i, i->spooled - VHD_FOOTER, VHD_FOOTER, footer);
}

static int look_table(struct task *t, struct intake *i)
{
	size_t n = (size_t)vhd_table_bytes(&i->vhd);
	unsigned char *table = talloc_array(t, unsigned char, n);
	int result = look(t, i, i->vhd.table_at, n, table);
	const char *wrong =
		result == 0 ? vhd_read_table(t, table, file_size(i), &i->vhd, &i->map) : NULL;
	talloc_free(table);
	return wrong ? refuse(t, i, wrong) : result;
}

static int look_vhd(struct task *t, struct intake *i)
{
	unsigned char b[VHD_HEADER];
	int result = look_footer(t, i, b);
	if (result)
		return result;
	const char *wrong = vhd_read_footer(t, b, &i->vhd);
	if (wrong)
		return refuse(t, i, wrong);
	if (i->vhd.size > i->room)
		return too_small(t, i, i->vhd.size);
	if (!i->vhd.dynamic && i->vhd.size > file_size(i) - VHD_FOOTER)
		return refuse(t, i,
			      str(t, "it is a disk of %llu bytes in a file of %llu",
				  (unsigned long long)i->vhd.size,
				  (unsigned long long)file_size(i)));
	if (!i->vhd.dynamic)
		return i->spool < 0 ? NEEDS_FILE : 0;
	result = look(t, i, i->vhd.header_at, VHD_HEADER, b);
	if (result)
		return result;
	wrong = vhd_read_header(t, b, &i->vhd);
	result = wrong ? refuse(t, i, wrong) : look_table(t, i);
	/* Data in front of what tells where they belong. */
	if (result == 0 && i->spool < 0 && i->map.n && i->map.v[0].at < i->in.at)
		return NEEDS_FILE;
	return result;
}

int image_judge_vhd(struct task *t, struct intake *i)
{
	int result = i->in.length == STREAM_OPEN ? NEEDS_FILE : look_vhd(t, i);
	if (result == NEEDS_FILE)
		result = spool(t, i, i->room) < 0 ? -1 : look_vhd(t, i);
	i->size = i->vhd.size;
	return result;
}

/* A spooled one is a stream again, in the order of its file. */
int image_pour_vhd(struct task *t, struct intake *i, struct disk *d)
{
	if (i->spool < 0)
		return vhd_receive(t, &i->vhd, &i->map, &i->in, image_disk_of(t, d));
	struct stream s;
	if (lseek(i->spool, 0, SEEK_SET) < 0)
		return task_fail_errno(t, errno, "lseek");
	stream_begin(&s, i->spool, i->spooled);
	int result = vhd_receive(t, &i->vhd, &i->map, &s, image_disk_of(t, d));
	stream_end(&s);
	return result;
}

/* ---- qcow2 ---- */

/* An internal snapshot would be lost without a word. */
static const char *check_header(struct task *t, const struct intake *i, uint64_t size,
				struct header *h)
{
	const char *wrong = header_read(i->head, i->head_n, size, h);
	if (!wrong)
		wrong = header_alone(h);
	if (!wrong && h->snapshots)
		wrong = "it has internal snapshots, which a disk cannot hold (qemu-img convert "
			"leaves them out)";
	return wrong ? str(t, "%s (%s)", wrong, header_values(t, i->head, i->head_n)) : NULL;
}

/* How large the file is, and so where its tables may be, is known at its end, or when it was announced. */
int image_judge_qcow2(struct task *t, struct intake *i)
{
	struct header h;
	size_t n = i->in.length < HEADER_BYTES ? (size_t)i->in.length : HEADER_BYTES;
	bool open = i->in.length == STREAM_OPEN;
	if (keep_head(t, i, n) < 0)
		return -1;
	const char *wrong = check_header(t, i, open ? INT64_MAX : i->in.length, &h);
	if (wrong)
		return refuse(t, i, wrong);
	i->size = (h.size + 511) & ~UINT64_C(511);
	if (i->size > i->room)
		return too_small(t, i, i->size);
	if (spool(t, i, i->size) < 0)
		return -1;
	wrong = open ? check_header(t, i, i->spooled, &h) : NULL;
	return wrong ? refuse(t, i, wrong) : 0;
}

int image_pour_qcow2(struct task *t, struct intake *i, struct disk *d)
{
	struct disk *image = disk_open_image(t, i->spool);
	if (!image)
		return -1;
	int result = disk_copy(t, image, d);
	return disk_close(t, image, result);
}

/* ---- raw ---- */

int image_pour_raw(struct task *t, struct intake *i, struct disk *d)
{
	return disk_receive(t, d, &i->in);
}

static uint64_t little(const unsigned char *b, unsigned n)
{
	uint64_t value = 0;
	while (n--)
		value = value << 8 | b[n];
	return value;
}

static int pour_chunk(struct task *t, struct intake *i, struct disk *d, uint64_t at, uint64_t n,
		      char *piece)
{
	if (at > disk_size(d) || n > disk_size(d) - at)
		return too_small(t, i, at + n);
	for (uint64_t part; n; at += part, n -= part) {
		part = n < DISK_PIECE ? n : DISK_PIECE;
		if (stream_read(t, &i->in, piece, (size_t)part) < 0 ||
		    disk_write(t, d, at, piece, (size_t)part) < 0)
			return -1;
	}
	return 0;
}

/* Each is its place on the disk, 8 bytes, its length, 4 bytes, both little-endian, and the bytes; a length of
 * 0 is the end. */
int image_pour_chunks(struct task *t, struct intake *i, struct disk *d)
{
	char *piece = talloc_array(t, char, DISK_PIECE);
	for (;;) {
		unsigned char head[12];
		if (stream_read(t, &i->in, head, sizeof head) < 0)
			return -1;
		uint64_t at = little(head, 8), n = little(head + 8, 4);
		if (n == 0)
			return 0;
		if (at > INT64_MAX || n > INT32_MAX)
			return fail(t, IMPORT_ERROR,
				    str(t, "a chunk of %lld bytes at %lld cannot be",
					(long long)(int32_t)n, (long long)at));
		if (pour_chunk(t, i, d, at, n, piece) < 0)
			return -1;
	}
}

/* ---- all ---- */

int intake_judge(struct task *t, struct intake *i, int in, uint64_t length)
{
	i->spool = -1;
	stream_begin(&i->in, in, length);
	if (i->format->judge)
		return i->format->judge(t, i);
	if (length == STREAM_OPEN || i->format == &image_chunked)
		return 0;
	i->size = (length + 511) & ~UINT64_C(511);
	return length > i->room ? too_small(t, i, length) : 0;
}

int intake_pour(struct task *t, struct intake *i, const struct sr *sr, const char *volume)
{
	struct disk *d = disk_open(t, sr, volume, true);
	if (!d)
		return -1;
	if (i->spool >= 0)
		task_span(t, 0.5, 1);
	return disk_close(t, d, i->format->pour(t, i, d));
}

void intake_end(struct intake *i)
{
	fd_close(&i->spool);
	stream_end(&i->in);
}
