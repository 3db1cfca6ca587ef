// SPDX-License-Identifier: Apache-2.0
/* test_large_image.c -- memory of 1 TiB with a few pages, and of 128 GiB with one in each 2 MiB, which is as much as
 * sums can be scattered: taken, finished, opened, verified, read.  All of it within what a daemon may take for it, and
 * in a time that goes with what is there, not with what there could be. */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"
#include "memory/receiver.h"
#include "unit/check.h"
#include "unit/migration_stream.h"

enum { MOST_MIB = 256, SPREAD = 2 << 20, SEND_MS = 60000 };
#define TIB (UINT64_C(1) << 40)
#define GIB (UINT64_C(1) << 30)

static void within_bounds(const char *what, int64_t begin, int64_t most_ms)
{
	char *end, status[8192] = "";
	FILE *f = fopen("/proc/self/status", "re");
	CHECK(f && fread(status, 1, sizeof status - 1, f) > 0);
	fclose(f);
	const char *peak = strstr(status, "VmHWM:");
	CHECK(peak);
	long mib = strtol(peak + strlen("VmHWM:"), &end, 10) >> 10;
	int64_t ms = clock_ms() - begin;
	printf("%s: %lld ms, %ld MiB at most so far\n", what, (long long)ms, mib);
	CHECK(mib <= MOST_MIB && ms <= most_ms);
}

static bool page_is(struct task *t, const struct image *i, uint64_t offset, int value)
{
	unsigned char page[PAGE];
	return image_page(t, i, 0, offset, page) == 0 && page[0] == value &&
	       page[PAGE - 1] == value;
}

static void finish(struct task *t, struct image_writer *w, uint64_t *ret_bytes)
{
	json_t *notes = json_object();
	CHECK(image_finish(t, w, notes, ret_bytes) == 0);
	json_decref(notes);
}

/* Of so many bytes of RAM; a page at each offset. */
static void make_sparse(struct maker *m, uint64_t bytes, const uint64_t *offsets, size_t n)
{
	m->n = 0;
	put_head(m);
	put_section(m, 1);
	put_name(m, "ram");
	put(m, 4, 0);
	put(m, 4, 4);
	put(m, 8, bytes | 4);
	put_name(m, "pc.ram");
	put(m, 8, bytes);
	put_end(m);
	put_section(m, 2);
	for (size_t i = 0; i < n; i++)
		put_page(m, i ? NULL : "pc.ram", offsets[i], (int)i + 1);
	put_end(m);
	put_devices(m);
}

static uint64_t on_disk(int fd)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0);
	return (uint64_t)st.st_blocks * 512;
}

/* As QEMU sends it, by way of a receiver. */
static void test_sparse(void)
{
	static const uint64_t offsets[] = { 0, PAGE, 5 * GIB, TIB / 2 + 3 * PAGE, TIB - PAGE };
	static struct maker m;
	struct task *t = task_new(NULL, "sparse");
	int fd = memfd_create("image", MFD_CLOEXEC), theirs;
	uint64_t bytes;
	make_sparse(&m, TIB, offsets, COUNT(offsets));
	int64_t begin = clock_ms();
	struct receiver *r = receiver_open(t, fd, TIB, &theirs);
	CHECK(r && io_write(t, theirs, m.b, m.n, SEND_MS) == 0);
	close(theirs);
	struct image_writer *w = receiver_wait(t, r);
	CHECK(w);
	finish(t, w, &bytes);
	receiver_close(r);
	within_bounds("1 TiB taken", begin, 10000);
	CHECK(bytes < 16 * PAGE * COUNT(offsets) && on_disk(fd) < 4 << 20);

	begin = clock_ms();
	struct image *i = image_open(t, fd);
	CHECK(i && i->used == COUNT(offsets) * PAGE && i->blocks[0].size == TIB);
	within_bounds("1 TiB opened", begin, 10000);
	begin = clock_ms();
	CHECK(image_verify(t, i) == 0);
	within_bounds("1 TiB verified", begin, 1000);
	for (size_t k = 0; k < COUNT(offsets); k++)
		CHECK(page_is(t, i, offsets[k], (int)k + 1));
	CHECK(page_is(t, i, 2 * PAGE, 0) && page_is(t, i, TIB - 2 * PAGE, 0));
	close(fd);
	talloc_free(t);
}

/* The n-th page of so many comes here: all over the place, so that sums come back from the file. */
static uint64_t place_of(uint64_t n, uint64_t pages)
{
	return n * 40503 % pages * SPREAD + n % 512 * PAGE;
}

static void put_scattered(struct task *t, const struct migration_sink *s, uint64_t pages)
{
	unsigned char page[PAGE];
	for (uint64_t n = 0; n < pages; n++) {
		memset(page, (int)(n % 255) + 1, PAGE);
		CHECK(s->page(t, s->arg, 0, place_of(n, pages), page) == 0);
	}
	for (uint64_t n = 0; n < pages; n += 3) /* these are zeros in the end */
		CHECK(s->page(t, s->arg, 0, place_of(n, pages), NULL) == 0);
}

static void test_scattered(void)
{
	const uint64_t size = 128 * GIB, pages = size / SPREAD;
	const struct migration_block block = { "pc.ram", size };
	struct task *t = task_new(NULL, "scattered");
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint64_t bytes;
	int64_t begin = clock_ms();
	struct image_writer *w = image_begin(t, fd);
	const struct migration_sink s = image_sink(w);
	CHECK(s.begin(t, s.arg, "pc-q35-9.9", 1, &block) == 0);
	put_scattered(t, &s, pages);
	CHECK(s.state(t, s.arg, "devices", 7) == 0);
	finish(t, w, &bytes);
	within_bounds("128 GiB taken", begin, 60000);

	begin = clock_ms();
	struct image *i = image_open(t, fd);
	CHECK(i && i->used == (pages - (pages + 2) / 3) * PAGE);
	CHECK(image_verify(t, i) == 0);
	within_bounds("128 GiB opened and verified", begin, 60000);
	for (uint64_t n = 0; n < pages; n += 101)
		CHECK(page_is(t, i, place_of(n, pages), n % 3 ? (int)(n % 255) + 1 : 0));
	close(fd);
	talloc_free(t);
}

/* More than an image holds: refused before anything is made for it. */
static void test_too_large(void)
{
	const struct migration_block blocks[] = { { "a", IMAGE_RAM_MAX }, { "b", PAGE } };
	struct task *t = task_new(NULL, "too large");
	int fd = memfd_create("image", MFD_CLOEXEC);
	const struct migration_sink s = image_sink(image_begin(t, fd));
	CHECK(s.begin(t, s.arg, "pc-q35-9.9", 2, blocks) < 0 && strstr(task_error(t), "32.0 TiB"));
	close(fd);
	talloc_free(t);
}

/* A file that says what it likes, in which all but header and table is a hole: its sums are of zeros, so that nothing
 * but its sizes is wrong. */
static void write_lie(int fd, uint64_t ram, uint64_t stream_end, uint64_t file_bytes)
{
	unsigned char header[IMAGE_HEADER] = IMAGE_MAGIC;
	char table[512];
	int n = snprintf(table, sizeof table,
			 "{\"machine\":\"q35\",\"blocks\":[{\"name\":\"a\",\"size\":%llu,"
			 "\"pages at\":%d}],\"notes\":{}}",
			 (unsigned long long)ram, IMAGE_PAGES_ALIGN);
	put_be(header + AT_VERSION, 4, IMAGE_VERSION);
	put_be(header + AT_STREAM, 8, stream_end);
	put_be(header + AT_SUMS, 8, IMAGE_PAGES_ALIGN);
	put_be(header + AT_SUMS + 8, 8, ram / PAGE * 8);
	put_be(header + AT_TABLE, 8, IMAGE_HEADER);
	put_be(header + AT_TABLE + 8, 8, (uint64_t)n);
	put_be(header + AT_TABLE + 16, 8, XXH3_64bits(table, (size_t)n));
	put_be(header + AT_CHECK, 8, XXH3_64bits(header, AT_CHECK));
	CHECK(pwrite(fd, header, sizeof header, 0) == sizeof header);
	CHECK(pwrite(fd, table, (size_t)n, IMAGE_HEADER) == n);
	CHECK(ftruncate(fd, (off_t)file_bytes) == 0);
}

/* Refused before anything of that size is made, read or hashed. */
static void test_lies(void)
{
	static const struct {
		uint64_t ram, stream_end, file_bytes;
		const char *says;
	} lies[] = {
		{ 2 * IMAGE_RAM_MAX, 3 * IMAGE_RAM_MAX, 4 * IMAGE_RAM_MAX, "larger than a VM" },
		{ INT64_MAX / PAGE * PAGE - IMAGE_PAGES_ALIGN, INT64_MAX, 4 * IMAGE_RAM_MAX,
		  "larger than a VM" },
		{ 512 * PAGE, 4 * IMAGE_RAM_MAX, 8 * IMAGE_RAM_MAX, "are no pages" },
		{ IMAGE_RAM_MAX, IMAGE_RAM_MAX + (2 << 20), 32 << 20, "cut off" },
	};
	for (size_t i = 0; i < COUNT(lies); i++) {
		struct task *t = task_new(NULL, "lies");
		int fd = memfd_create("image", MFD_CLOEXEC);
		int64_t begin = clock_ms();
		write_lie(fd, lies[i].ram, lies[i].stream_end, lies[i].file_bytes);
		CHECK(!image_open(t, fd) && strstr(task_error(t), lies[i].says));
		within_bounds(lies[i].says, begin, 1000);
		close(fd);
		talloc_free(t);
	}
}

int main(void)
{
	test_lies();
	test_sparse();
	test_scattered();
	test_too_large();
	return 0;
}
