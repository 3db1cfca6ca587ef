// SPDX-License-Identifier: Apache-2.0
/* test_header.c -- sound headers, and each way in which one can lie. */
#include "sr/header.h"

#include <string.h>

#include "base/text.h"
#include "unit/check.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaa"
enum { FILE_BYTES = 0x40000 };

/* An image's start, and the numbers that a case changes in it. */
struct image {
	unsigned char b[HEADER_BYTES];
	size_t n;
	uint64_t file_size;
};

static void put(struct image *m, size_t at, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		m->b[at + i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
}

static void extension(struct image *m, size_t at, uint32_t type, const char *text)
{
	put(m, at, 4, type);
	put(m, at + 4, 4, strlen(text));
	memcpy(m->b + at + 8, text, strlen(text));
}

static void backing(struct image *m, const char *name)
{
	put(m, 8, 8, 0x210);
	put(m, 16, 4, strlen(name));
	memcpy(m->b + 0x210, name, strlen(name));
}

/* As qemu-img makes it: 1 GiB, clusters of 64 KiB. */
static struct image sound(void)
{
	struct image m = { .n = HEADER_BYTES, .file_size = FILE_BYTES };
	put(&m, 0, 4, 0x514649fb);
	put(&m, 4, 4, 3);
	put(&m, 20, 4, 16);
	put(&m, 24, 8, 1 << 30);
	put(&m, 36, 4, 2);
	put(&m, 40, 8, 0x30000);
	put(&m, 48, 8, 0x10000);
	put(&m, 56, 4, 1);
	put(&m, 96, 4, 4);
	put(&m, 100, 4, 112);
	return m;
}

static const char *judge(const struct image *m, struct header *ret)
{
	return header_read(m->b, m->n, m->file_size, ret);
}

static void test_sound(void)
{
	struct header h;
	char parent[25];
	struct image m = sound();
	CHECK(!judge(&m, &h));
	CHECK(h.version == 3 && h.size == 1 << 30 && h.cluster_bits == 16 && !h.dirty);
	CHECK(streq(h.backing, "") && streq(h.backing_format, ""));
	CHECK(!header_ours(&h, parent) && streq(parent, "") && !header_alone(&h));

	backing(&m, A ".qcow2");
	extension(&m, 112, 0xe2792aca, "qcow2");
	extension(&m, 128, 0x6803f857, "names that nobody reads");
	CHECK(!judge(&m, &h));
	CHECK(streq(h.backing, A ".qcow2") && streq(h.backing_format, "qcow2"));
	CHECK(!header_ours(&h, parent) && streq(parent, A));
	CHECK(header_alone(&h));
}

/* A refusal shows what stands there, in one line whatever that is. */
static void test_values(void)
{
	void *ctx = talloc_new(NULL);
	struct image m = sound();
	backing(&m, "../x\n\x1b[2Jy");
	char *text = header_values(ctx, m.b, m.n);
	CHECK(starts_with(text, "version 3, disk of 1073741824 bytes, cluster_bits 16, "));
	CHECK(strstr(text, "backing file \"../x") && !strchr(text, '\n') && !strchr(text, 27));
	put(&m, 8, 8, UINT64_MAX);
	text = header_values(ctx, m.b, m.n);
	CHECK(ends_with(text, "backing file's name at 18446744073709551615"));
	text = header_values(ctx, "QFI\xfb", 4);
	CHECK(streq(text, "4 bytes"));
	talloc_free(ctx);
}

/* What is unusual, but no harm. */
static const struct {
	const char *what;
	size_t at;
	unsigned bytes;
	uint64_t value;
} harmless[] = {
	{ "not closed", 72, 8, 1 },
	{ "zstd may be used", 72, 8, 8 },
	{ "extended L2 entries", 72, 8, 16 },
	{ "lazy refcounts", 80, 8, 1 },
	{ "a compatible feature of tomorrow", 80, 8, UINT64_C(1) << 63 },
	{ "an autoclear feature of tomorrow", 88, 8, UINT64_C(1) << 63 },
	{ "an extension of tomorrow", 112, 8, UINT64_C(0x1234567800000100) },
	{ "bitmaps", 112, 8, UINT64_C(0x2385287500000018) },
	{ "L1 table larger than needed", 36, 4, 100 },
	{ "a size between sectors", 24, 8, (1 << 20) + 1 },
};

static void test_harmless(void)
{
	for (size_t i = 0; i < COUNT(harmless); i++) {
		struct header h;
		struct image m = sound();
		/* Extended entries are twice as long: the L1 table needs twice as many. */
		put(&m, 36, 4, 4);
		put(&m, harmless[i].at, harmless[i].bytes, harmless[i].value);
		const char *wrong = judge(&m, &h);
		if (wrong)
			fprintf(stderr, "%s: %s\n", harmless[i].what, wrong);
		CHECK(!wrong);
	}
}

static const struct {
	const char *what; /* a part of the answer */
	size_t at;
	unsigned bytes;
	uint64_t value;
} lies[] = {
	{ "no qcow2", 0, 4, 0x51454400 },                   /* QED */
	{ "no qcow2", 0, 4, 0x4b444d56 },                   /* VMDK */
	{ "no qcow2", 0, 4, 0x4c554b53 },                   /* LUKS */
	{ "no qcow2", 0, 8, UINT64_C(0x636f6e6563746978) }, /* VHD */
	{ "version", 4, 4, 1 },
	{ "version", 4, 4, 4 },
	{ "cluster size", 20, 4, 8 },
	{ "cluster size", 20, 4, 22 },
	{ "cluster size", 20, 4, 0xffffffff },
	{ "disk size", 24, 8, 0 },
	{ "disk size", 24, 8, HEADER_SIZE_MAX + 1 },
	{ "disk size", 24, 8, UINT64_C(32) << 50 },
	{ "disk size", 24, 8, UINT64_MAX },
	{ "encrypted", 32, 4, 1 },
	{ "encrypted", 32, 4, 2 },
	{ "L1 table", 36, 4, 1 },
	{ "L1 table", 36, 4, 0xffffffff },
	{ "L1 table lies", 40, 8, 0 },
	{ "L1 table lies", 40, 8, 0x30008 },
	{ "L1 table lies", 40, 8, FILE_BYTES },
	{ "L1 table lies", 40, 8, UINT64_MAX - 0xffff },
	{ "overlap", 40, 8, 0x10000 },
	{ "refcount table lies", 48, 8, 0 },
	{ "refcount table lies", 48, 8, UINT64_C(1) << 62 },
	{ "refcount table is", 56, 4, 0 },
	{ "refcount table is", 56, 4, 0xffffffff },
	{ "too many internal", 60, 4, 65536 },
	{ "snapshot table", 60, 4, 1 },
	{ "not known", 72, 8, 32 },
	{ "not known", 72, 8, UINT64_C(1) << 63 },
	{ "corrupt", 72, 8, 2 },
	{ "another file", 72, 8, 4 },
	{ "wider", 96, 4, 7 },
	{ "length", 100, 4, 72 },
	{ "length", 100, 4, 113 },
	{ "cut off", 100, 4, 0xfffffff8 },
	{ "compression", 104, 1, 1 },
	{ "data file", 112, 8, UINT64_C(0x4441544100000008) },
	{ "encrypted", 112, 8, UINT64_C(0x0537be7700000010) },
	{ "longer than", 112, 8, UINT64_C(0x12345678ffffffff) },
	{ "longer than", 112, 8, UINT64_C(0x1234567800001000) },
	{ "no name", 112, 8, UINT64_C(0xe2792aca00000010) },
};

static bool refused(const struct image *m, const char *why)
{
	struct header h = { .size = 7 };
	const char *wrong = judge(m, &h);
	if (!wrong || !strstr(wrong, why))
		fprintf(stderr, "wanted %s, got %s\n", why, wrong ? wrong : "nothing");
	return wrong && strstr(wrong, why) && h.size == 7;
}

static void test_lies(void)
{
	for (size_t i = 0; i < COUNT(lies); i++) {
		struct image m = sound();
		put(&m, lies[i].at, lies[i].bytes, lies[i].value);
		CHECK(refused(&m, lies[i].what));
	}
}

/* Sound as headers, but none of ours; nor may a tool open them. */
static const char *const elsewhere[] = {
	"/etc/passwd",
	"../" A ".qcow2",
	"./" A ".qcow2",
	A ".qcow2.new",
	A ".qcow",
	A,
	"AAAAAAAAAAAAAAAAAAAAAAAA.qcow2",
	"aaaaaaaaaaaaaaaaaaaaaaa.qcow2",
	"aaaaaaaaaaaa/aaaaaaaaaaa.qcow2",
	"json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
	"json:{\"driver\":\"nbd\",\"host\":\"::1\"}",
	"nbd:localhost:10809",
	"http://localhost/x",
	"rbd:pool/image",
	"x",
};

static void test_elsewhere(void)
{
	struct header h;
	char parent[25] = "as before";
	for (size_t i = 0; i < COUNT(elsewhere); i++) {
		struct image m = sound();
		backing(&m, elsewhere[i]);
		CHECK(!judge(&m, &h));
		CHECK(header_ours(&h, parent) && header_alone(&h) && streq(parent, "as before"));
	}
	struct image m = sound();
	backing(&m, A ".qcow2");
	extension(&m, 112, 0xe2792aca, "raw");
	CHECK(!judge(&m, &h) && header_ours(&h, parent));
	m = sound();
	put(&m, 24, 8, (1 << 20) + 1);
	CHECK(!judge(&m, &h) && header_ours(&h, parent));
}

static void test_names(void)
{
	struct image m = sound();
	backing(&m, A ".qcow2");
	m.b[0x214] = 0;
	CHECK(refused(&m, "no name"));
	m.b[0x214] = '\n';
	CHECK(refused(&m, "no name"));
	m = sound();
	backing(&m, A ".qcow2");
	put(&m, 16, 4, 0);
	CHECK(refused(&m, "no name"));
	put(&m, 16, 4, HEADER_NAME + 1);
	CHECK(refused(&m, "no name"));
	put(&m, 16, 4, 0xffffffff);
	CHECK(refused(&m, "cannot be"));
	put(&m, 16, 4, 30);
	put(&m, 8, 8, 64);
	CHECK(refused(&m, "cannot be"));
	put(&m, 8, 8, HEADER_BYTES - 29);
	CHECK(refused(&m, "cannot be"));
	put(&m, 8, 8, UINT64_MAX - 10);
	CHECK(refused(&m, "cannot be"));
	m = sound(); /* in the file, but not in the first cluster of 512 bytes */
	put(&m, 20, 4, 9);
	put(&m, 24, 8, 1 << 20);
	put(&m, 36, 4, 64);
	backing(&m, "x");
	CHECK(refused(&m, "cannot be"));
}

/* The longest name fits, and ends. */
static void test_longest(void)
{
	struct header h;
	struct image m = sound();
	put(&m, 8, 8, 0x210);
	put(&m, 16, 4, HEADER_NAME);
	memset(m.b + 0x210, 'a', HEADER_NAME);
	CHECK(!judge(&m, &h) && strlen(h.backing) == HEADER_NAME);
}

/* However much of the header there is, nothing behind it is read: the heap copy has its end there. */
static void test_truncated(void)
{
	struct header h;
	struct image m = sound();
	backing(&m, A ".qcow2");
	extension(&m, 112, 0xe2792aca, "qcow2");
	for (size_t n = 0; n < 0x210 + 30; n++) {
		unsigned char *copy = malloc(n ? n : 1);
		memcpy(copy, m.b, n);
		CHECK(header_read(copy, n, FILE_BYTES, &h));
		free(copy);
	}
	CHECK(!header_read(m.b, 0x210 + 30, FILE_BYTES, &h));
	for (uint64_t size = 0; size < 0x30010; size += 512)
		CHECK(header_read(m.b, HEADER_BYTES, size, &h));
}

static void test_version_2(void)
{
	struct header h;
	struct image m = sound();
	memset(m.b + 72, 0, 64);
	put(&m, 4, 4, 2);
	CHECK(!judge(&m, &h) && h.version == 2);
	extension(&m, 72, 0xe2792aca, "qcow2");
	CHECK(!judge(&m, &h) && streq(h.backing_format, "qcow2"));
	extension(&m, 72, 0x44415441, "/etc/passwd");
	CHECK(refused(&m, "data file"));
}

int main(void)
{
	test_sound();
	test_values();
	test_harmless();
	test_lies();
	test_elsewhere();
	test_names();
	test_longest();
	test_truncated();
	test_version_2();
	return 0;
}
