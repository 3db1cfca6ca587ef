// SPDX-License-Identifier: Apache-2.0
/* test_image.c -- an image of memory: written from a stream, read again, each byte of it changed. */
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/task.h"
#include "base/text.h"
#include "memory/image.h"
#include "unit/check.h"
#include "unit/migration_stream.h"

/* Length and XXH3 of the file that the first writer of images made of the same stream. */
#define AS_EVER_BYTES 2101488
#define AS_EVER UINT64_C(0x9f16d60f8ca9ec61)

struct seen {
	const struct maker *m;
	size_t at;
};

static ssize_t some(struct task *t, void *arg, void *to, size_t n)
{
	struct seen *s = arg;
	size_t left = s->m->n - s->at;
	(void)t;
	n = n < left ? n : left;
	memcpy(to, s->m->b + s->at, n);
	s->at += n;
	return (ssize_t)n;
}

static struct image_writer *receive(struct task *t, const struct maker *m, int fd)
{
	struct image_writer *w = image_begin(t, fd);
	struct seen s = { .m = m };
	struct migration_source source = { some, &s };
	struct migration_sink sink = image_sink(w);
	CHECK(migration_read(t, &source, 4 * PAGE, &sink) == 0);
	return w;
}

static uint64_t finish(struct task *t, struct image_writer *w)
{
	json_t *notes = json_pack("{s:s}", "cpu", "qemu64");
	uint64_t bytes = 0;
	CHECK(image_finish(t, w, notes, &bytes) == 0);
	json_decref(notes);
	return bytes;
}

static int page_is(struct task *t, const struct image *i, size_t block, uint64_t offset, int value)
{
	unsigned char page[PAGE];
	return image_page(t, i, block, offset, page) == 0 && page[0] == value &&
	       page[PAGE - 1] == value;
}

static void test_whole(struct task *t, const struct maker *m, int fd)
{
	struct image_writer *w = receive(t, m, fd);
	unsigned char page[PAGE];
	CHECK(image_block(w, "vga.vram") == 1 && image_block(w, "other") == 2);
	CHECK(!image_open(t, fd)); /* until it is finished */
	CHECK(strstr(task_error(t), "it was not finished") || strstr(task_error(t), "cut off"));
	task_forgive(t);
	memset(page, 'n', PAGE);
	CHECK(image_put(t, w, 1, 0, page) == 0);
	uint64_t bytes = finish(t, w);
	CHECK(bytes > 3 * PAGE && bytes < 5 * PAGE);

	struct image *i = image_open(t, fd);
	CHECK(i && streq(i->machine, "pc-q35-9.9") && i->nblocks == 2 && i->used == 3 * PAGE);
	CHECK(streq(i->blocks[1].name, "vga.vram") && i->blocks[1].size == PAGE);
	CHECK(streq(json_string_value(json_object_get(i->notes, "cpu")), "qemu64"));
	CHECK(page_is(t, i, 0, 0, 'a') && page_is(t, i, 0, PAGE, 'b'));
	CHECK(page_is(t, i, 0, 2 * PAGE, 0) && page_is(t, i, 1, 0, 'n'));
	CHECK(image_verify(t, i) == 0);
}

/* A page that comes again counts as it came last. */
static void test_again(struct task *t, const struct maker *m, int fd)
{
	unsigned char page[PAGE];
	struct image_writer *w = receive(t, m, fd);
	memset(page, 'z', PAGE);
	CHECK(image_put(t, w, 0, 0, NULL) == 0 && image_put(t, w, 0, 2 * PAGE, page) == 0);
	finish(t, w);
	struct image *i = image_open(t, fd);
	CHECK(i && i->used == 3 * PAGE && page_is(t, i, 0, 0, 0) && page_is(t, i, 0, 2 * PAGE, 'z'));
	CHECK(image_verify(t, i) == 0);
}

/* Whoever sends may call a block as he likes, and make it as short. */
static void test_no_such_page(struct task *t, const struct maker *m, int fd)
{
	static const struct {
		size_t block;
		uint64_t offset;
	} bad[] = { { 0, 3 * PAGE }, { 1, PAGE }, { 1, 1 }, { 2, 0 }, { 0, UINT64_MAX - PAGE + 1 } };
	unsigned char page[PAGE] = { 1 };
	struct image_writer *w = receive(t, m, fd);
	for (size_t i = 0; i < COUNT(bad); i++) {
		CHECK(image_put(t, w, bad[i].block, bad[i].offset, page) < 0 && strstr(task_error(t), "no page"));
		task_forgive(t);
		CHECK(image_put(t, w, bad[i].block, bad[i].offset, NULL) < 0);
		task_forgive(t);
	}
	finish(t, w);
	CHECK(image_open(t, fd));
}

/* Version 1 to the byte: what wrote images before reads these, and those that it wrote are read. */
static void test_same_as_ever(struct task *t, const struct maker *m, int fd)
{
	static unsigned char file[4 << 20];
	finish(t, receive(t, m, fd));
	ssize_t n = pread(fd, file, sizeof file, 0);
	CHECK(n == AS_EVER_BYTES);
	CHECK(XXH3_64bits(file, (size_t)n) == AS_EVER);
}

/* Whatever byte of it is changed, it is found; only a page that nobody reads may be anything. */
static bool is_found(int fd)
{
	struct task *t = task_new(NULL, "test");
	struct image *i = image_open(t, fd);
	bool found = !i || image_verify(t, i) < 0;
	CHECK(!found || strstr(task_error(t), "memory image"));
	talloc_free(t);
	return found;
}

static void test_changed(struct task *t, const struct maker *m, int fd)
{
	finish(t, receive(t, m, fd));
	struct image *i = image_open(t, fd);
	struct stat st;
	CHECK(i && fstat(fd, &st) == 0);
	uint64_t zeros = i->blocks[0].pages_at + 2 * PAGE;
	for (uint64_t at = 0; at < (uint64_t)st.st_size; at += at < 8192 || at >= i->stream_end ? 1 : 509) {
		unsigned char byte;
		CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
		byte ^= 16;
		CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
		if (is_found(fd) == (at >= zeros && at < zeros + PAGE)) {
			printf("byte %llu\n", (unsigned long long)at);
			CHECK(false);
		}
		byte ^= 16;
		CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
	}
	CHECK(!is_found(fd));
	for (off_t n = st.st_size; n > 0; n = n * 3 / 4) {
		CHECK(ftruncate(fd, n - 1) == 0);
		CHECK(is_found(fd));
	}
}

static void in_a_file(const struct maker *m, void (*test)(struct task *, const struct maker *, int fd))
{
	struct task *t = task_new(NULL, "test");
	int fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(fd >= 0);
	test(t, m, fd);
	close(fd);
	talloc_free(t);
}

int main(void)
{
	static struct maker m;
	make(&m, true);
	in_a_file(&m, test_whole);
	in_a_file(&m, test_again);
	in_a_file(&m, test_no_such_page);
	in_a_file(&m, test_same_as_ever);
	in_a_file(&m, test_changed);
	return 0;
}
