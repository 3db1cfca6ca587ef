// SPDX-License-Identifier: Apache-2.0
/* test_archive.c -- images of a disk in memory: out, in again, and how long the largest ones are. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "archive/blocks.h"
#include "base/bytes.h"
#include "archive/image.h"
#include "archive/kind.h"
#include "archive/qcow2_stream.h"
#include "archive/vhd.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

enum { MIB = 1 << 20, SIZE = 9 * MIB + 512 };

struct memory {
	struct image_disk disk;
	char *b;
};

static char *bytes_of(struct image_disk *d)
{
	return ((struct memory *)d)->b;
}

static int extent(struct task *t, struct image_disk *d, uint64_t at, uint64_t limit,
		  uint64_t *ret_n, bool *ret_data)
{
	uint64_t n = d->size - at < 512 ? d->size - at : 512;
	(void)t, (void)limit;
	*ret_n = n;
	*ret_data = !is_zero(bytes_of(d) + at, (size_t)n);
	return 0;
}

static int take(struct task *t, struct image_disk *d, uint64_t at, void *to, size_t n)
{
	(void)t;
	CHECK(at <= d->size && n <= d->size - at);
	memcpy(to, bytes_of(d) + at, n);
	return 0;
}

static int put(struct task *t, struct image_disk *d, uint64_t at, const void *from, size_t n)
{
	(void)t;
	CHECK(at <= d->size && n <= d->size - at);
	memcpy(bytes_of(d) + at, from, n);
	return 0;
}

static int clear(struct task *t, struct image_disk *d, uint64_t at, uint64_t n)
{
	(void)t;
	CHECK(at <= d->size && n <= d->size - at);
	memset(bytes_of(d) + at, 0, (size_t)n);
	return 0;
}

static struct memory *disk_new(struct task *t)
{
	struct memory *m = talloc_zero(t, struct memory);
	m->disk = (struct image_disk){ SIZE, extent, take, put, clear };
	m->b = talloc_zero_array(m, char, SIZE);
	return m;
}

/* Data at the beginning, over a block's border, and at the end. */
static struct memory *disk_with_data(struct task *t)
{
	struct memory *m = disk_new(t);
	memset(m->b, 'a', 1000);
	memset(m->b + 4 * MIB - 5, 'b', 70000);
	memset(m->b + SIZE - 512, 'c', 512);
	return m;
}

typedef int write_fn(struct task *, const struct blocks *, struct image_disk *, struct stream *);

/* The image in memory: as long as was said. */
static char *written(struct task *t, struct memory *m, const struct blocks *b,
		     write_fn *write_image, uint64_t length)
{
	struct stream out;
	char *image = talloc_size(t, (size_t)length);
	int fd = memfd_create("image", 0);
	stream_begin(&out, fd, length);
	CHECK(write_image(t, b, &m->disk, &out) == 0 && out.at == length);
	stream_end(&out);
	CHECK(lseek(fd, 0, SEEK_END) == (off_t)length);
	CHECK(pread(fd, image, (size_t)length, 0) == (ssize_t)length);
	close(fd);
	return image;
}

static void test_blocks(struct task *t)
{
	struct blocks *b = blocks_of(t, &disk_with_data(t)->disk, 16);
	uint64_t first = 0;
	CHECK(b->n == SIZE / 65536 + 1 && b->used == 5);
	CHECK(blocks_run(b, &first) == 1 && first == 0);
	first++;
	CHECK(blocks_run(b, &first) == 3 && first == 63);
	first += 3;
	CHECK(blocks_run(b, &first) == 1 && first == b->n - 1);
	first++;
	CHECK(blocks_run(b, &first) == 0);
	CHECK(blocks_count(b, 60, 1000) == 4);
}

/* Each cluster of the disk, by way of the tables. */
static void test_qcow2(struct task *t)
{
	struct memory *m = disk_with_data(t);
	struct blocks *b = blocks_of(t, &m->disk, QCOW2_STREAM_BITS);
	uint64_t length = qcow2_stream_length(b);
	const char *image = written(t, m, b, qcow2_stream_write, length);
	CHECK(length == (5 + 5) * 65536); /* header, 2 for refcounts, L1, L2; data */
	uint64_t l1 = get_be(image + 40, 8), l2 = get_be(image + l1, 8) << 1 >> 1;
	for (uint64_t i = 0; i < b->n; i++) {
		uint64_t at = get_be(image + l2 + 8 * i, 8) << 1 >> 1;
		size_t n = SIZE - i * 65536 < 65536 ? SIZE - i * 65536 : 65536;
		CHECK(at <= length - 65536);
		CHECK(at ? memcmp(image + at, m->b + i * 65536, n) == 0
			 : is_zero(m->b + i * 65536, n));
	}
}

/* Of 64 TiB, with data everywhere and nowhere. */
static void test_large(struct task *t)
{
	struct blocks *b = blocks_new(t, UINT64_C(64) << 40, 20);
	CHECK(b->n == 1 << 26);
	struct blocks full = {
		.size = UINT64_C(1) << 40, .bits = 16, .n = 1 << 24, .used = 1 << 24
	};
	full.map = talloc_size(t, (1 << 21) + 1);
	memset(full.map, 0xff, (1 << 21) + 1);
	uint64_t clusters = qcow2_stream_length(&full) >> 16;
	/* 2048 L2 tables, of L1 one, and a refcount block for each 32768 */
	CHECK(clusters == (1 << 24) + 2048 + 1 + 513 + 1 + 1);
	struct blocks *empty = blocks_new(t, UINT64_C(64) << 40, 16);
	CHECK(qcow2_stream_length(empty) >> 16 == 1 + 1 + 1 + 16);
	CHECK(vhd_length(blocks_new(t, VHD_SIZE_MAX, VHD_BITS)) == 2048 + 1044480 * 4);
	talloc_free(empty);
	talloc_free(b);
}

static int take_image(struct task *t, const struct vhd *v, const struct vhd_map *map,
		      const char *image, uint64_t length, struct memory *to)
{
	struct stream in;
	int fd = memfd_create("image", 0);
	CHECK(write(fd, image, (size_t)length) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0);
	stream_begin(&in, fd, length);
	int result = vhd_receive(t, v, map, &in, &to->disk);
	stream_end(&in);
	close(fd);
	return result;
}

static void receive(struct task *t, const struct vhd *v, const struct vhd_map *map,
		    const char *image, uint64_t length, struct memory *to)
{
	CHECK(take_image(t, v, map, image, length, to) == 0);
}

/* The footer that comes last is looked at, too. */
static void refuses_end(struct task *t, const struct vhd *v, const struct vhd_map *map,
			const char *image, uint64_t length, struct memory *to, const char *why)
{
	CHECK(take_image(t, v, map, image, length, to) < 0 && t->code == IMPORT_ERROR);
	CHECK(strstr(t->params[0], why));
	task_forgive(t);
}

/* Out and in, onto a disk that has something else everywhere. */
static void test_vhd(struct task *t)
{
	struct memory *m = disk_with_data(t), *back = disk_new(t);
	struct blocks *b = blocks_of(t, &m->disk, VHD_BITS);
	struct vhd v = { 0 };
	struct vhd_map map;
	uint64_t length = vhd_length(b);
	char *image = written(t, m, b, vhd_write, length);
	CHECK(b->used == 4 && length == 2048 + 4 * (512 + 2 * MIB) + 512);
	CHECK(memcmp(image, image + length - 512, 512) == 0);
	CHECK(!vhd_read_footer(t, image, &v) && v.dynamic && v.size == SIZE && v.header_at == 512);
	CHECK(!vhd_read_header(t, image + 512, &v) && v.table_at == 1536 && v.entries == 5);
	CHECK(!vhd_read_table(t, image + 1536, length, &v, &map) && map.n == 4);
	memset(back->b, 'z', SIZE);
	receive(t, &v, &map, image, length, back);
	CHECK(memcmp(m->b, back->b, SIZE) == 0);

	/* A sector that the bitmap does not have is zero, whatever stands there. */
	image[2048] = 0x7f;
	receive(t, &v, &map, image, length, back);
	CHECK(is_zero(back->b, 512) && !memcmp(m->b + 512, back->b + 512, SIZE - 512));
	for (uint64_t n = 1; n <= 2 * MIB; n += 100000)
		CHECK(strstr(vhd_read_table(t, image + 1536, length - n, &v, &map),
			     "behind the file's end"));
	CHECK(strstr(vhd_read_table(t, image + 1536, 2048 + 511, &v, &map),
		     "reaches to the file's"));

	char *footer = image + length - 512;
	footer[100]++;
	refuses_end(t, &v, &map, image, length, back, "the checksum");
	put_be(footer + 64, 4, get_be(footer + 64, 4) - 1);
	CHECK(!vhd_check_end(t, footer, &v)); /* what is said at 100 is nothing that counts */
	/* A byte of its id, which is drawn by lot: one at its most has to become less, or the sum would be another. */
	int step = (unsigned char)footer[80] == 0xff ? -1 : 1;
	footer[80] = (char)(footer[80] + step);
	put_be(footer + 64, 4, get_be(footer + 64, 4) - (uint64_t)step);
	refuses_end(t, &v, &map, image, length, back, "of another image");
	memset(footer, 0, 512);
	refuses_end(t, &v, &map, image, length, back, "there is no footer");
}

static void test_kinds(struct task *t)
{
	static const char *const plain[] = { "",
					     "\xeb\x63\x90",
					     "EFI PART",
					     "LUKS\xba\xbe",
					     "hsqs",
					     "QFI",
					     "BZh9",
					     ("\x7f"
					      "ELF") };
	unsigned char b[KIND_BYTES] = { 0 };
	(void)t;
	for (size_t i = 0; i < COUNT(plain); i++) {
		memset(b, 0, sizeof b);
		memcpy(b, plain[i], strlen(plain[i]));
		CHECK(!kind_of(b, sizeof b));
	}
	memcpy(b, "QFI\xfb", 4);
	CHECK(streq(kind_of(b, 4)->format, "qcow2") && !kind_of(b, 3));
	memcpy(b, "conectix", 8);
	CHECK(streq(kind_of(b, sizeof b)->format, "vhd"));
	memset(b, 0, sizeof b);
	memcpy(b + 64, "\x7f\x10\xda\xbe", 4);
	CHECK(strstr(kind_of(b, sizeof b)->what, "VirtualBox") && !kind_of(b, 67));
	memset(b, 0, sizeof b);
	memcpy(b + 257, "ustar", 5);
	CHECK(strstr(kind_of(b, sizeof b)->what, "tar") && !kind_of(b, 261));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	test_blocks(t);
	test_qcow2(t);
	test_large(t);
	test_vhd(t);
	test_kinds(t);
	talloc_free(t);
	return 0;
}
