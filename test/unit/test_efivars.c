// SPDX-License-Identifier: Apache-2.0
/* test_efivars.c -- OVMF's own stores and a small one, each way in which they and a blob can lie. */
#include "api/efivars.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

#define PLAIN "/usr/share/OVMF/OVMF_VARS_4M.fd"
#define KEYS "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
enum { SKIP = 77, LASTS_AND_SEEN = 7, SEEN = 6, BLOB_HEADER = 24, AREA = 100 };

static const uint8_t ours[16] = "an owner's guid", theirs[16] = "another's guid.",
		     now[16] = "\xea\x07\x01";

/* ---- helpers ---- */

static uint8_t *load(struct task *t, const char *path, size_t *ret_n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		printf("%s is not there: the package ovmf\n", path);
		exit(SKIP);
	}
	*ret_n = (size_t)lseek(fd, 0, SEEK_END);
	uint8_t *bytes = talloc_array(t, uint8_t, *ret_n);
	CHECK(pread(fd, bytes, *ret_n, 0) == (ssize_t)*ret_n);
	close(fd);
	return bytes;
}

/* The name in UTF-16. */
static struct efivar variable(struct task *t, const char *name, const char *data)
{
	uint8_t *wide = talloc_zero_array(t, uint8_t, 2 * strlen(name) + 1);
	for (size_t i = 0; name[i]; i++)
		wide[2 * i] = (uint8_t)name[i];
	return (struct efivar){
		.name = wide,
		.name_size = (uint32_t)(2 * strlen(name)),
		.data = (const uint8_t *)data,
		.data_size = (uint32_t)strlen(data),
		.owner = ours,
		.time = now,
		.attributes = LASTS_AND_SEEN,
	};
}

static const struct efivar *find(struct task *t, const struct efivars *all, const char *name,
				 const uint8_t *owner)
{
	struct efivar like = variable(t, name, "");
	for (size_t i = 0; i < all->n; i++)
		if (all->v[i].name_size == like.name_size && !memcmp(all->v[i].owner, owner, 16) &&
		    !memcmp(all->v[i].name, like.name, like.name_size))
			return &all->v[i];
	return NULL;
}

static bool holds(const struct efivar *v, const char *data)
{
	return v && v->data_size == strlen(data) && !memcmp(v->data, data, v->data_size);
}

static bool same(const struct efivar *a, const struct efivar *b)
{
	return a->name_size == b->name_size && a->data_size == b->data_size &&
	       a->attributes == b->attributes && !memcmp(a->name, b->name, a->name_size) &&
	       !memcmp(a->data, b->data, a->data_size) && !memcmp(a->owner, b->owner, 16) &&
	       !memcmp(a->time, b->time, 16);
}

static void check_same(const struct efivars *a, const struct efivars *b)
{
	CHECK(a->n == b->n);
	for (size_t i = 0; i < a->n; i++)
		CHECK(same(&a->v[i], &b->v[i]));
}

/* ---- what must work ---- */

static void a_new_store_is_empty(struct task *t)
{
	size_t n, blob_n;
	struct efivars all;
	uint8_t *image = load(t, PLAIN, &n);
	CHECK(efivars_read_image(t, image, n, &all) == 0 && all.n == 0);
	CHECK(!memcmp(efivars_write_blob(t, &all, &blob_n),
		      "VARS\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", BLOB_HEADER));
	CHECK(blob_n == BLOB_HEADER);
}

static void keys_survive_both_forms(struct task *t)
{
	static const uint8_t global[16] = { 0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11,
					    0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c };
	size_t n, plain_n;
	struct efivars all, text, copy;
	uint8_t *image = load(t, KEYS, &n), *plain = load(t, PLAIN, &plain_n);
	CHECK(efivars_read_image(t, image, n, &all) == 0);
	CHECK(find(t, &all, "PK", global) && find(t, &all, "KEK", global));
	CHECK(efivars_read_text(t, efivars_write_text(t, &all), &text) == 0);
	check_same(&all, &text);
	CHECK(efivars_put(t, plain, plain_n, &text) == 0);
	CHECK(efivars_read_image(t, plain, plain_n, &copy) == 0);
	check_same(&all, &copy);
}

static void replaces_and_adds(struct task *t)
{
	size_t n;
	struct efivar v[] = {
		variable(t, "A", "first"), variable(t, "B", "b"),    variable(t, "A", "theirs"),
		variable(t, "A", "last"),  variable(t, "C", "gone"),
	};
	struct efivars some = { 2, v }, more = { 3, v + 2 }, all;
	uint8_t *image = load(t, PLAIN, &n);
	v[2].owner = theirs;
	v[4].attributes = SEEN;
	CHECK(efivars_put(t, image, n, &some) == 0 && efivars_put(t, image, n, &more) == 0);
	CHECK(efivars_read_image(t, image, n, &all) == 0 && all.n == 3);
	CHECK(holds(find(t, &all, "A", ours), "last") &&
	      holds(find(t, &all, "A", theirs), "theirs"));
	CHECK(holds(find(t, &all, "B", ours), "b") && !find(t, &all, "C", ours));
}

static void states_count(struct task *t)
{
	static const struct {
		uint8_t state, second;
		const char *holds;
	} cases[] = {
		{ 0x3f, 0x3c, "old" }, { 0x3e, 0x3f, "new" }, { 0x3e, 0x7f, "old" },
		{ 0x3c, 0x3f, "new" }, { 0x3d, 0x3c, NULL },  { 0x3e, 0xff, "old" },
	};
	size_t n;
	struct efivar v[] = { variable(t, "A", "old"), variable(t, "B", "new") };
	struct efivars two = { 2, v }, all;
	uint8_t *image = load(t, PLAIN, &n);
	CHECK(efivars_put(t, image, n, &two) == 0);
	uint8_t *second = image + AREA + 68; /* 60 and 4 for the name and 3 for the data, aligned */
	CHECK(second[0] == 0xaa && second[60] == 'B');
	second[60] = 'A';
	for (size_t i = 0; i < COUNT(cases); i++) {
		image[AREA + 2] = cases[i].state;
		second[2] = cases[i].second;
		CHECK(efivars_read_image(t, image, n, &all) == 0);
		CHECK(all.n == (cases[i].holds ? 1 : 0));
		CHECK(!cases[i].holds || holds(all.v, cases[i].holds));
	}
}

static void version_2_is_read(struct task *t)
{
	enum { EXTRA = 268 };
	size_t n;
	struct efivar v = variable(t, "A", "a");
	struct efivars one = { 1, &v }, all;
	uint8_t *blob = efivars_write_blob(t, &one, &n);
	uint8_t *newer = talloc_zero_array(t, uint8_t, n + EXTRA);
	memcpy(newer, blob, BLOB_HEADER);
	memcpy(newer + BLOB_HEADER + EXTRA, blob + BLOB_HEADER, n - BLOB_HEADER);
	newer[4] = 2;
	CHECK(efivars_read_blob(t, newer, n + EXTRA, &all) == 0);
	check_same(&all, &one);
}

/* ---- what must not ---- */

static void full_is_refused(struct task *t)
{
	enum { LARGE = 60000, MANY = 5 };
	size_t n;
	char *data = talloc_array(t, char, LARGE + 1);
	memset(data, 'x', LARGE);
	data[LARGE] = 0;
	struct efivar v[MANY];
	for (int i = 0; i < MANY; i++)
		v[i] = variable(t, str(t, "V%d", i), data);
	struct efivars many = { MANY, v }, all;
	uint8_t *image = load(t, PLAIN, &n), *before = talloc_memdup(t, image, n);
	CHECK(efivars_put(t, image, n, &many) < 0 && t->code == VALUE_NOT_SUPPORTED);
	CHECK(streq(t->params[0], "NVRAM") && !memcmp(image, before, n));
	task_forgive(t);
	many.n--;
	CHECK(efivars_put(t, image, n, &many) == 0);
	CHECK(efivars_read_image(t, image, n, &all) == 0 && all.n == MANY - 1);
}

static void no_image(struct task *t)
{
	static const struct {
		size_t at;
		uint8_t value;
	} lies[] = {
		{ 16, 0 },        { 34, 0xff },        { 40, 0 },           { 48, 0xff },
		{ 50, 0 },        { 72, 0 },           { 90, 0xff },        { 92, 0 },
		{ 93, 0 },        { AREA + 39, 0x7f }, { AREA + 43, 0x7f }, { AREA + 36, 3 },
		{ AREA + 60, 0 },
	};
	size_t n;
	struct efivar v = variable(t, "AB", "data");
	struct efivars one = { 1, &v }, all;
	uint8_t *image = load(t, PLAIN, &n);
	CHECK(efivars_put(t, image, n, &one) == 0);
	for (size_t i = 0; i < COUNT(lies); i++) {
		uint8_t truth = image[lies[i].at];
		image[lies[i].at] = lies[i].value;
		CHECK(efivars_read_image(t, image, n, &all) < 0 && t->code == INTERNAL_ERROR);
		task_forgive(t);
		image[lies[i].at] = truth;
	}
	CHECK(efivars_read_image(t, image, n, &all) == 0 && all.n == 1);
	for (size_t less = 0; less < n; less += 61) {
		CHECK(efivars_read_image(t, image, less, &all) < 0);
		task_forgive(t);
	}
}

static void check_no_blob(struct task *t, const uint8_t *blob, size_t n)
{
	struct efivars all;
	CHECK(efivars_read_blob(t, blob, n, &all) < 0);
	CHECK(t->code == VALUE_NOT_SUPPORTED && streq(t->params[0], "NVRAM"));
	task_forgive(t);
}

static void no_blob(struct task *t)
{
	static const struct {
		size_t at;
		uint8_t value;
	} lies[] = {
		{ 0, 'v' },   { 4, 3 },    { 4, 2 },     { 8, 0 },     { 8, 2 },
		{ 15, 0xff }, { 24, 3 },   { 24, 0 },    { 31, 0xff }, { 32, 0 },
		{ 36, 0 },    { 36, 200 }, { 43, 0xff },
	};
	size_t n;
	struct efivar v = variable(t, "AB", "data");
	struct efivars one = { 1, &v }, all;
	uint8_t *blob = efivars_write_blob(t, &one, &n);
	for (size_t i = 0; i < COUNT(lies); i++) {
		uint8_t truth = blob[lies[i].at];
		blob[lies[i].at] = lies[i].value;
		check_no_blob(t, blob, n);
		blob[lies[i].at] = truth;
	}
	CHECK(efivars_read_blob(t, blob, n, &all) == 0);
	for (size_t less = 0; less < n; less++)
		check_no_blob(t, blob, less);
	check_no_blob(t, talloc_realloc(t, blob, uint8_t, n + 1), n + 1);
}

static void no_text(struct task *t)
{
	static const char *const bad[] = { "", "*", "VkFSUw==", "not base64 at all",
					   "VkFSUwEAAAA" };
	struct efivars all;
	for (size_t i = 0; i < COUNT(bad); i++) {
		CHECK(efivars_read_text(t, bad[i], &all) < 0 && t->code == VALUE_NOT_SUPPORTED);
		task_forgive(t);
	}
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	version_2_is_read(t);
	no_blob(t);
	no_text(t);
	a_new_store_is_empty(t);
	keys_survive_both_forms(t);
	replaces_and_adds(t);
	states_count(t);
	full_is_refused(t);
	no_image(t);
	talloc_free(t);
	return 0;
}
