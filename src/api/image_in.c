// SPDX-License-Identifier: Apache-2.0
#include "api/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "archive/kind.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/disk.h"
#include "sr/header.h"
#include "sr/sr.h"

enum {
	PIECE = 1 << 20,
	HOLE = 4096,
	SECTOR = 512,
	HEAD_MAX = 32 << 20, /* of a stream, looked at while it is judged */
	TABLES = 64 << 20,   /* what an image may have beside twice its disk */
	NEEDS_FILE = 1,
};

static int refuse(struct task *t, const struct intake *i, const char *wrong)
{
	return fail(t, IMPORT_ERROR, str(t, "the %s image is refused: %s", i->format->name, wrong));
}

/* Adds to the reason of a refusal what the image's first n bytes look like, when that is something else. */
static const char *guess(struct task *t, const struct intake *i, const char *wrong,
			 const unsigned char *head, size_t n)
{
	const struct kind *k = kind_of(head, n);
	if (!wrong || !k || (k->format && streq(k->format, i->format->name)))
		return wrong;
	return k->format ? str(t, "%s; it begins as %s does: say format=%s", wrong, k->what,
			       k->format)
			 : str(t, "%s; it begins as %s does: %s", wrong, k->what, k->advice);
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

/* All of the stream; no image of a disk of `size` bytes is much larger than twice that. */
static int spool(struct task *t, struct intake *i, uint64_t size)
{
	char *piece = talloc_array(t, char, PIECE);
	uint64_t limit = 2 * size + TABLES;
	ssize_t got = PIECE;
	task_span(t, 0, 0.5);
	i->spool = sr_nameless_file(t, i->sr);
	if (i->spool < 0)
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
		const unsigned char *head;
		if (stream_peek(t, &i->in, (size_t)at + n, &head) < 0)
			return -1;
		memcpy(to, head + at, n);
		return 0;
	}
	ssize_t got = pread(i->spool, to, n, (off_t)at);
	return got == (ssize_t)n ? 0 : task_fail_errno(t, got < 0 ? errno : EIO, "the image");
}

/* ---- vhd ---- */

/* A dynamic image begins with a copy of its footer, so it can be taken from the stream; the footer at
 * its end is checked when it comes (vhd_receive).  A fixed image has a footer at its end only, and
 * begins with the disk, on which a guest may have written a VHD: so in a file the end decides. */
static int look_footers(struct task *t, struct intake *i)
{
	unsigned char head[VHD_FOOTER], end[VHD_FOOTER];
	struct vhd copy = { 0 }, last = { 0 };
	int result = look(t, i, 0, sizeof head, head);
	if (result)
		return result;
	bool dynamic = !vhd_read_footer(t, head, &copy) && copy.dynamic;
	if (i->spool < 0) {
		i->vhd = copy;
		return dynamic ? 0 : NEEDS_FILE;
	}
	if (look(t, i, i->spooled - sizeof end, sizeof end, end) < 0)
		return -1;
	const char *wrong = vhd_read_footer(t, end, &last);
	i->vhd = dynamic && (wrong || last.dynamic) ? copy : last;
	if (dynamic && (wrong || last.dynamic))
		wrong = vhd_check_end(t, end, &copy);
	else if (!wrong && last.dynamic)
		wrong = "the copy of its footer, at its beginning, is damaged";
	return wrong ? refuse(t, i, guess(t, i, wrong, head, sizeof head)) : 0;
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
	int result = look_footers(t, i);
	if (result)
		return result;
	if (i->vhd.size > i->room)
		return too_small(t, i, i->vhd.size);
	if (!i->vhd.dynamic && i->vhd.size > file_size(i) - VHD_FOOTER)
		return refuse(t, i,
			      str(t, "it is a disk of %llu bytes in a file of %llu",
				  (unsigned long long)i->vhd.size,
				  (unsigned long long)file_size(i)));
	if (!i->vhd.dynamic)
		return 0;
	result = look(t, i, i->vhd.header_at, VHD_HEADER, b);
	if (result)
		return result;
	const char *wrong = vhd_read_header(t, b, &i->vhd);
	return wrong ? refuse(t, i, wrong) : look_table(t, i);
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
static const char *check_header(struct task *t, const struct intake *i, const unsigned char *head,
				size_t n, uint64_t size, struct header *h)
{
	const char *wrong = header_read(head, n, size, h);
	if (!wrong)
		wrong = header_alone(h);
	if (!wrong && h->snapshots)
		wrong = "it has internal snapshots, which a disk cannot hold (qemu-img convert "
			"leaves them out)";
	if (wrong)
		wrong = str(t, "%s (%s)", wrong, header_values(t, head, n));
	return guess(t, i, wrong, head, n);
}

static int read_image(struct task *t, const struct intake *i, uint64_t at, size_t n, char *to)
{
	struct disk *image = disk_open_image(t, i->spool);
	if (!image)
		return -1;
	return disk_close(t, image, disk_read(t, image, at, to, n));
}

/* The file ends in the last sector of a cluster's compressed data.  QEMU leaves such a file when the data
 * end there, too; a broken download leaves one when they do not.  The cluster is unpacked twice, with
 * zeros and with ones in place of what is missing: when both give the same, no data are missing. */
static int judge_last_sector(struct task *t, struct intake *i, const struct header *h, uint64_t at)
{
	unsigned char rest[SECTOR];
	uint64_t left = h->size - at, cluster = UINT64_C(1) << h->cluster_bits;
	size_t n = (size_t)(left < cluster ? left : cluster);
	size_t missing = SECTOR - (size_t)(i->spooled % SECTOR);
	char *with_zeros = talloc_array(t, char, n), *with_ones = talloc_array(t, char, n);
	memset(rest, 0xff, missing);
	if (read_image(t, i, at, n, with_zeros) < 0)
		return -1;
	if (pwrite(i->spool, rest, missing, (off_t)i->spooled) != (ssize_t)missing)
		return task_fail_errno(t, errno, i->sr->path);
	if (read_image(t, i, at, n, with_ones) < 0)
		return -1;
	if (ftruncate(i->spool, (off_t)i->spooled) < 0)
		return task_fail_errno(t, errno, i->sr->path);
	if (memcmp(with_zeros, with_ones, n) != 0)
		return refuse(
			t, i,
			str(t, "it is cut off: of the compressed data for %llu, the end is missing",
			    (unsigned long long)at));
	talloc_free(with_zeros);
	talloc_free(with_ones);
	return 0;
}

static int judge_tables(struct task *t, struct intake *i, const struct header *h)
{
	struct tables tables;
	if (tables_walk(t, i->spool, i->spooled, h, true, &tables) < 0)
		return -1;
	if (tables.wrong)
		return refuse(t, i, tables.wrong);
	return tables.unsure == NOWHERE ? 0 : judge_last_sector(t, i, h, tables.unsure);
}

/* The header is checked before the image is written to the spool file.  Where the tables may lie depends
 * on the size of the file: when that was not announced, the header is checked again at the end. */
int image_judge_qcow2(struct task *t, struct intake *i)
{
	struct header h;
	const unsigned char *seen;
	unsigned char head[HEADER_BYTES];
	bool open = i->in.length == STREAM_OPEN;
	ssize_t n = stream_peek(t, &i->in, sizeof head, &seen);
	if (n < 0)
		return -1;
	if (n > 0)
		memcpy(head, seen, (size_t)n);
	const char *wrong =
		check_header(t, i, head, (size_t)n, open ? INT64_MAX : i->in.length, &h);
	if (wrong)
		return refuse(t, i, wrong);
	i->size = (h.size + 511) & ~UINT64_C(511);
	if (i->size > i->room)
		return too_small(t, i, i->size);
	if (spool(t, i, i->size) < 0)
		return -1;
	wrong = open ? check_header(t, i, head, (size_t)n, i->spooled, &h) : NULL;
	return wrong ? refuse(t, i, wrong) : judge_tables(t, i, &h);
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

static int refuse_kind(struct task *t, const struct kind *k)
{
	const char *advice = k->format ? str(t, "say format=%s", k->format) : k->advice;
	return fail(t, IMPORT_ERROR,
		    str(t,
			"no format was said, and the data begin as %s does: %s; or say format=raw, "
			"if the "
			"disk is to hold these very bytes",
			k->what, advice));
}

static int check_kind(struct task *t, const struct intake *i, const unsigned char *head, size_t n)
{
	const struct kind *k = i->source->unsaid ? kind_of(head, n) : NULL;
	return k ? refuse_kind(t, k) : 0;
}

int image_judge_raw(struct task *t, struct intake *i)
{
	const unsigned char *head;
	uint64_t length = i->in.length;
	ssize_t n = stream_peek(t, &i->in, KIND_BYTES, &head);
	if (n < 0)
		return -1;
	if (n == 0)
		return fail(t, IMPORT_ERROR, "there is nothing to import");
	if (check_kind(t, i, head, (size_t)n) < 0)
		return -1;
	if (length == STREAM_OPEN)
		return 0;
	i->size = (length + 511) & ~UINT64_C(511);
	return length > i->room ? too_small(t, i, length) : 0;
}

/* A connection ends when its sender dies, too.  So without a length and without a last chunk the sender
 * is believed to have sent everything only when that fills the disk. */
int image_pour_raw(struct task *t, struct intake *i, struct disk *d)
{
	bool told = i->in.length != STREAM_OPEN || i->in.coding;
	if (disk_receive(t, d, &i->in) < 0)
		return -1;
	if (told || i->in.at >= disk_size(d))
		return 0;
	return fail(t, IMPORT_ERROR,
		    str(t,
			"the data ended after %llu bytes, for a disk of %llu, and nothing says "
			"that they were "
			"all: send them with a Content-Length, or in chunks (Transfer-Encoding: "
			"chunked)",
			(unsigned long long)i->in.at, (unsigned long long)disk_size(d)));
}

static uint64_t little(const unsigned char *b, unsigned n)
{
	uint64_t value = 0;
	while (n--)
		value = value << 8 | b[n];
	return value;
}

/* The first piece may hold the disk's beginning.  The client need not close the connection behind the
 * last piece, so no more bytes are waited for than the piece has. */
int image_judge_chunks(struct task *t, struct intake *i)
{
	enum { HEAD = 12 };
	const unsigned char *head;
	ssize_t got = stream_peek(t, &i->in, HEAD, &head);
	if (got < HEAD || little(head, 8) != 0)
		return got < 0 ? -1 : 0;
	uint64_t n = little(head + 8, 4);
	got = stream_peek(t, &i->in, HEAD + (size_t)(n < KIND_BYTES ? n : KIND_BYTES), &head);
	return got < 0 ? -1 : check_kind(t, i, head + HEAD, (size_t)got - HEAD);
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

int intake_judge(struct task *t, struct intake *i)
{
	const struct image_source *from = i->source;
	i->spool = -1;
	if (from->coded)
		stream_begin_coded(&i->in, from->in, &i->coding);
	else
		stream_begin(&i->in, from->in, from->length);
	return i->format->judge(t, i);
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
