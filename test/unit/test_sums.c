// SPDX-License-Identifier: Apache-2.0
/* test_sums.c -- checksums of which two pieces are in memory at most: what is set is what is got, from the file too,
 * and a file that has changed is found out. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/task.h"
#include "memory/image_file.h"
#include "memory/sums.h"
#include "unit/check.h"

enum { PAGES = 9 * SUMS_PIECE + 7, KEPT = 2, AT = 4096, LATER = 1 << 20, ROUNDS = 9000 };

static uint64_t should[PAGES];

static uint64_t get(struct task *t, struct sums *s, uint64_t page)
{
	uint64_t sum;
	CHECK(sums_get(t, s, page, &sum) == 0);
	return sum;
}

static void set(struct task *t, struct sums *s, uint64_t page, uint64_t sum)
{
	uint64_t before;
	CHECK(sums_set(t, s, page, sum, &before) == 0 && before == should[page]);
	should[page] = sum;
}

/* But for piece 4, whose pages stay zeros. */
static void set_some(struct task *t, struct sums *s)
{
	memset(should, 0, sizeof should);
	for (uint64_t i = 0; i < ROUNDS; i++) {
		uint64_t page = i * 7919 % PAGES;
		if (page / SUMS_PIECE != 4)
			set(t, s, page, i % 5 ? ~i : 0);
	}
}

static void is_as_it_should(struct task *t, struct sums *s)
{
	uint64_t found;
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t next = page;
		while (next < PAGES && !should[next])
			next++;
		CHECK(get(t, s, page) == should[page]);
		CHECK(sums_find(t, s, page, PAGES, &found) == 0 && found == next);
	}
	CHECK(sums_find(t, s, 4 * SUMS_PIECE, 5 * SUMS_PIECE, &found) == 0 &&
	      found == 5 * SUMS_PIECE);
	CHECK(sums_find(t, s, PAGES, PAGES, &found) == 0 && found == PAGES);
}

static uint64_t pages_that_are(void)
{
	uint64_t n = 0;
	for (uint64_t page = 0; page < PAGES; page++)
		n += should[page] != 0;
	return n;
}

static struct sums *written(struct task *t, int fd, size_t kept, struct image_part *part)
{
	struct sums *s = sums_new(t, fd, PAGES, kept);
	uint64_t bytes;
	sums_place(s, AT);
	set_some(t, s);
	is_as_it_should(t, s);
	CHECK(sums_write(t, s, LATER, part, &bytes) == 0);
	CHECK(part->n == PAGES * 8 && bytes == part->n - SUMS_PIECE * 8);
	CHECK(part->at ==
	      (kept == KEPT ? AT : LATER)); /* where none had to go before, behind the stream */
	is_as_it_should(t, s);
	return s;
}

static void test_whole(struct task *t, int fd, size_t kept)
{
	struct image_part part;
	uint64_t pages;
	written(t, fd, kept, &part);
	CHECK(ftruncate(fd, (off_t)(part.at + part.n)) == 0);
	struct sums *s = sums_new(t, fd, PAGES, 1);
	CHECK(sums_read(t, s, &part, &pages) == 0 && pages == pages_that_are());
	is_as_it_should(t, s);
}

/* Each byte of the sums, the hole among them; and one that changes when all have been looked at. */
static void test_changed(struct task *t, int fd)
{
	struct image_part part;
	uint64_t pages;
	written(t, fd, KEPT, &part);
	CHECK(ftruncate(fd, (off_t)(part.at + part.n)) == 0);
	for (uint64_t at = part.at; at < part.at + part.n; at += 61) {
		unsigned char byte, other;
		struct sums *s = sums_new(t, fd, PAGES, 1);
		CHECK(pread(fd, &byte, 1, (off_t)at) == 1);
		other = byte ^ 4;
		CHECK(pwrite(fd, &other, 1, (off_t)at) == 1);
		CHECK(sums_read(t, s, &part, &pages) < 0 && strstr(task_error(t), "damaged"));
		task_forgive(t);
		CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
		talloc_free(s);
	}
	struct sums *s = sums_new(t, fd, PAGES, 1);
	uint64_t sum;
	CHECK(sums_read(t, s, &part, &pages) == 0);
	CHECK(pwrite(fd, "x", 1, (off_t)part.at + 3) == 1);
	CHECK(sums_get(t, s, 0, &sum) < 0 && strstr(task_error(t), "damaged"));
}

/* A storage that takes nothing: who sets is told, and nothing is forgotten. */
static void test_full(struct task *t)
{
	int full = open("/dev/full", O_RDWR | O_CLOEXEC);
	struct sums *s = sums_new(t, full, PAGES, 1);
	uint64_t before;
	sums_place(s, AT);
	memset(should, 0, sizeof should);
	set(t, s, 0, 5);
	CHECK(sums_set(t, s, SUMS_PIECE, 6, &before) < 0 && t->code == SR_BACKEND_FAILURE_44);
	task_forgive(t);
	CHECK(get(t, s, 0) == 5);
	close(full);
}

int main(void)
{
	const size_t kept[] = { KEPT, 1000 };
	struct task *t = task_new(NULL, "sums");
	for (size_t i = 0; i < 2; i++) {
		int fd = memfd_create("sums", MFD_CLOEXEC);
		test_whole(t, fd, kept[i]);
		close(fd);
	}
	int fd = memfd_create("sums", MFD_CLOEXEC);
	test_changed(t, fd);
	close(fd);
	task_forgive(t);
	test_full(t);
	talloc_free(t);
	return 0;
}
