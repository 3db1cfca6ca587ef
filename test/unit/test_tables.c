// SPDX-License-Identifier: Apache-2.0
/* test_tables.c -- images whose tables are right, each way in which they can point astray, and how little a hostile
 * one costs. */
#include "sr/header.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

#define ALONE (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)
enum { BITS = 16, CLUSTER = 1 << BITS, DATA = 5, USED = 6 };

/* Header, refcount table, its block, L1, L2, then the data of the disk's first USED clusters. */
struct image {
	int fd;
	uint64_t size; /* of the file */
	struct header h;
};

static void put(const struct image *m, uint64_t at, uint64_t entry)
{
	unsigned char b[8];
	put_be(b, 8, entry);
	CHECK(pwrite(m->fd, b, 8, (off_t)at) == 8);
}

static void put_l2(const struct image *m, uint64_t i, uint64_t entry)
{
	put(m, 4 * CLUSTER + i * (m->h.extended ? 16 : 8), entry);
}

/* Of which 32nds have data, and which are zeros. */
static void put_map(const struct image *m, uint64_t i, uint32_t data, uint32_t zeros)
{
	put(m, 4 * CLUSTER + i * 16 + 8, (uint64_t)zeros << 32 | data);
}

static struct image image_new(bool extended)
{
	struct image m = {
		.fd = memfd_create("image", MFD_CLOEXEC),
		.size = (DATA + USED) * CLUSTER,
		.h = {
			.version = 3,
			.size = 100 * CLUSTER,
			.cluster_bits = BITS,
			.extended = extended,
			.l1_at = 3 * CLUSTER,
			.l1_entries = 1,
			.reftable_at = CLUSTER,
			.reftable_clusters = 1,
		},
	};
	CHECK(m.fd >= 0 && ftruncate(m.fd, (off_t)m.size) == 0);
	put(&m, CLUSTER, 2 * CLUSTER);
	put(&m, 3 * CLUSTER, ALONE | 4 * CLUSTER);
	for (uint64_t i = 0; i < USED; i++) {
		put_l2(&m, i, ALONE | (DATA + i) * CLUSTER);
		if (extended)
			put_map(&m, i, UINT32_MAX, 0);
	}
	return m;
}

/* What is wrong with it when its file has so many bytes; NULL: nothing. */
static const char *judge(struct task *t, struct image *m, uint64_t size)
{
	struct tables ret;
	m->size = size;
	CHECK(ftruncate(m->fd, (off_t)size) == 0);
	CHECK(tables_walk(t, m->fd, size, &m->h, true, &ret) == 0);
	return ret.wrong;
}

static bool is_cut(struct task *t, struct image *m, uint64_t size)
{
	const char *wrong = judge(t, m, size);
	return wrong && strstr(wrong, "it is cut off");
}

static bool refused(struct task *t, struct image m, const char *why)
{
	const char *wrong = judge(t, &m, m.size);
	close(m.fd);
	if (wrong && strstr(wrong, why))
		return true;
	fprintf(stderr, "wanted %s, got %s\n", why, wrong ? wrong : "nothing");
	return false;
}

/* From a byte less than all of it down to its tables. */
static void test_cut(struct task *t)
{
	for (int extended = 0; extended <= 1; extended++) {
		struct image m = image_new(extended);
		uint64_t whole = m.size;
		CHECK(!judge(t, &m, whole) && !judge(t, &m, whole + 7));
		for (uint64_t n = 4 * CLUSTER + 4096; n < whole; n += 4095)
			CHECK(is_cut(t, &m, n));
		m = image_new(extended);
		CHECK(is_cut(t, &m, whole - 1));
		m = image_new(extended);
		CHECK(is_cut(t, &m, 2 * CLUSTER + 100)); /* within the refcount block */
	}
}

/* What the disk does not show need not be there. */
static void test_more_than_is_needed(struct task *t)
{
	struct image m = image_new(false);
	uint64_t whole = m.size;
	m.h.size = USED * CLUSTER - 3000; /* ends in the last cluster */
	CHECK(!judge(t, &m, whole - 3000) && is_cut(t, &m, whole - 3001));

	m = image_new(
		false); /* an L2 table that nothing follows has entries for 100 clusters of 8192 */
	for (uint64_t i = 0; i < USED; i++)
		put_l2(&m, i, 0);
	CHECK(!judge(t, &m, 4 * CLUSTER + 800) && is_cut(t, &m, 4 * CLUSTER + 799));

	m = image_new(false); /* zeros that have a place are not read there */
	put_l2(&m, USED - 1, ALONE | (DATA + USED - 1) * CLUSTER | 1);
	put_l2(&m, USED, ALONE | (UINT64_C(1) << 40) | 1);
	CHECK(!judge(t, &m, whole - CLUSTER) && is_cut(t, &m, whole - CLUSTER - 1));

	m = image_new(true); /* the last 32nd of all has no data */
	put_map(&m, USED - 1, UINT32_MAX >> 1, 0);
	CHECK(!judge(t, &m, whole - CLUSTER / 32) && is_cut(t, &m, whole - CLUSTER / 32 - 1));
	put_map(&m, USED - 1, 0, UINT32_MAX);
	CHECK(!judge(t, &m, whole - CLUSTER));
}

static uint64_t compressed(uint64_t at, uint64_t more_sectors)
{
	return COMPRESSED | more_sectors << (62 - (BITS - 8)) | at;
}

/* They may end in front of the last sector's end, and then only reading tells. */
static void test_compressed(struct task *t)
{
	struct image m = image_new(false);
	struct tables ret;
	uint64_t end = m.size;
	put_l2(&m, USED, compressed(end + 100, 2));
	put_l2(&m, USED + 1, compressed(end + 1400, 0)); /* in the same sector */
	CHECK(!judge(t, &m, end + 1536) && is_cut(t, &m, end + 1024) && is_cut(t, &m, end + 50));
	for (uint64_t n = 1401; n < 1536; n += 67) {
		CHECK(ftruncate(m.fd, (off_t)(end + n)) == 0);
		CHECK(tables_walk(t, m.fd, end + n, &m.h, true, &ret) == 0);
		CHECK(!ret.wrong && ret.unsure == (USED + 1) * CLUSTER);
	}
	CHECK(tables_walk(t, m.fd, end + 1536, &m.h, true, &ret) == 0 && ret.unsure == NOWHERE);
	put_l2(&m, USED + 2, compressed(end - 10, 0));
	m.size = end + 1536;
	CHECK(refused(t, m, "two of its parts")); /* in a cluster that another has alone */
}

static const struct {
	const char *why;
	uint64_t at, entry;
} lies[] = {
	{ "L1 table has an entry", 3 * CLUSTER, ALONE | (4 * CLUSTER + 512) },
	{ "L1 table has an entry", 3 * CLUSTER, ALONE | 4 * CLUSTER | 1 },
	{ "L1 table has an entry", 3 * CLUSTER, UINT64_C(1) << 56 | 4 * CLUSTER },
	{ "cut off", 3 * CLUSTER, ALONE | 0x123 << BITS },
	{ "cut off", 3 * CLUSTER, UINT64_C(0x80ffffffffff0000) },
	{ "two of its parts", 3 * CLUSTER, ALONE | 3 * CLUSTER },
	{ "two of its parts", 3 * CLUSTER, ALONE | CLUSTER },
	{ "two of its parts", 3 * CLUSTER, ALONE | 2 * CLUSTER },
	{ "L2 table has an entry", 4 * CLUSTER, ALONE | (DATA * CLUSTER + 512) },
	{ "L2 table has an entry", 4 * CLUSTER, ALONE | DATA *CLUSTER | 2 },
	{ "L2 table has an entry", 4 * CLUSTER, UINT64_C(1) << 61 | DATA * CLUSTER },
	{ "cut off", 4 * CLUSTER, ALONE | (DATA + USED) * CLUSTER },
	{ "cut off", 4 * CLUSTER, UINT64_C(0x80ffffffffff0000) },
	{ "cut off", 4 * CLUSTER, UINT64_C(0x7fffffffffffffff) }, /* compressed, all bits set */
	{ "two of its parts", 4 * CLUSTER, ALONE | (DATA + 1) * CLUSTER },
	{ "two of its parts", 4 * CLUSTER, (DATA + 1) * CLUSTER },
	{ "two of its parts", 4 * CLUSTER, ALONE | 4 * CLUSTER },
	{ "refcount table has an entry", CLUSTER, 2 * CLUSTER + 512 },
	{ "refcount table has an entry", CLUSTER, 2 * CLUSTER + 1 },
	{ "cut off", CLUSTER, 0x123 << BITS },
	{ "cut off", CLUSTER + 8, UINT64_C(0xffffffffffff0000) },
	{ "two of its parts", CLUSTER + 8, 2 * CLUSTER },
	{ "two of its parts", CLUSTER + 8, CLUSTER },
};

static void test_lies(struct task *t)
{
	for (size_t i = 0; i < COUNT(lies); i++) {
		struct image m = image_new(false);
		put(&m, lies[i].at, lies[i].entry);
		CHECK(refused(t, m, lies[i].why));
	}
	struct image m = image_new(true);
	put_map(&m, 2, 3, 2); /* data and zeros in one */
	CHECK(refused(t, m, "map of a cluster's parts"));
	m = image_new(true);
	put_map(&m, USED, 1, 0); /* data nowhere */
	CHECK(refused(t, m, "map of a cluster's parts"));
	m = image_new(true);
	put_l2(&m, 2, ALONE | (DATA + 2) * CLUSTER | 1);
	CHECK(refused(t, m, "L2 table has an entry"));
	m = image_new(false);
	m.h.version = 2;
	put_l2(&m, USED, 1);
	CHECK(refused(t, m, "L2 table has an entry"));
}

/* What may have one place: clusters that do not say to be alone there, and compressed data. */
static void test_shared(struct task *t)
{
	struct tables ret;
	struct image m = image_new(false);
	uint64_t end = m.size;
	put_l2(&m, 0, DATA * CLUSTER);
	put_l2(&m, USED, DATA * CLUSTER);
	put_l2(&m, USED + 1, compressed(end + 7, 1));
	put_l2(&m, USED + 2, compressed(end + 7, 1));
	CHECK(!judge(t, &m, end + 1024));
	put_l2(&m, USED + 3, ALONE | (DATA + 1) * CLUSTER);
	CHECK(judge(t, &m, end + 1024));
	CHECK(tables_walk(t, m.fd, m.size, &m.h, false, &ret) == 0 && !ret.wrong);
	close(m.fd);
}

/* 64 TiB, each 512 MiB of it by a table of its own that is a hole, or all by one. */
static void test_costs_what_is_there(struct task *t)
{
	enum { TABLES = 131072 };
	struct image m = image_new(false);
	struct rusage used;
	int64_t begin = clock_ms();
	m.h.size = HEADER_SIZE_MAX;
	m.h.l1_at = (DATA + USED) * CLUSTER;
	m.h.l1_entries = TABLES;
	put(&m, m.h.l1_at, ALONE | 4 * CLUSTER);
	for (uint64_t i = 1; i < TABLES; i++)
		put(&m, m.h.l1_at + 8 * i, ALONE | ((UINT64_C(1) << 40) + (i << BITS)));
	CHECK(!judge(t, &m, UINT64_C(1) << 41));
	put(&m, m.h.l1_at + 8 * (TABLES - 1), ALONE | 4 * CLUSTER);
	CHECK(refused(t, m, "two of its parts"));
	CHECK(getrusage(RUSAGE_SELF, &used) == 0 && used.ru_maxrss < 256 << 10);
	CHECK(clock_ms() - begin < 10000);
	m = image_new(false);
	m.size = INT64_MAX / 2;
	m.h.cluster_bits = 9;
	m.h.reftable_clusters = 1;
	struct tables ret;
	CHECK(tables_walk(t, m.fd, m.size, &m.h, true, &ret) == 0 &&
	      strstr(ret.wrong, "larger than"));
	close(m.fd);
}

static void test_cancel(struct task *t)
{
	struct image m = image_new(false);
	struct tables ret;
	struct task *own = task_new(t, "walk");
	own->cancellable = true;
	task_interrupt(own);
	CHECK(tables_walk(own, m.fd, m.size, &m.h, true, &ret) < 0 && own->code == TASK_CANCELLED);
	close(m.fd);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	test_cut(t);
	test_more_than_is_needed(t);
	test_compressed(t);
	test_lies(t);
	test_shared(t);
	test_costs_what_is_there(t);
	test_cancel(t);
	talloc_free(t);
	return 0;
}
