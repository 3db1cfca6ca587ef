// SPDX-License-Identifier: Apache-2.0
#include "api/efivars.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

#include "base/base64.h"
#include "base/task.h"
#include "base/text.h"

enum {
	GUID_SIZE = 16,
	TIME_SIZE = 16,
	SIGNER_SIZE = 32,

	VOLUME_GUID = 16,
	VOLUME_SIZE = 32,
	VOLUME_MAGIC = 40,
	VOLUME_HEADER_SIZE = 48,
	VOLUME_HEADER_LEAST = 72,

	AREA_SIZE = 16,
	AREA_FORMATTED = 20,
	AREA_HEALTHY = 21,
	AREA_HEADER = 28,

	ENTRY_STATE = 2,
	ENTRY_ATTRIBUTES = 4,
	ENTRY_TIME = 16,
	ENTRY_NAME_SIZE = 36,
	ENTRY_DATA_SIZE = 40,
	ENTRY_OWNER = 44,
	ENTRY_HEADER = 60,
	WHOLE = 0x3f,
	WHOLE_UNTIL_REPLACED = 0x3e,

	BLOB_HEADER = 24,
	BLOB_EXTRA = 268, /* version 2 */

	LASTS = 0x01,    /* attribute: non-volatile */
	APPENDED = 0x40, /* of a write, not of a variable */

	MOST_VARIABLES = 4096,
	LONGEST_NAME = 4096,
	LARGEST_BLOB = 1 << 20,
};

static const uint8_t volume_guid[GUID_SIZE] = { 0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c,
						0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50 };
static const uint8_t area_guid[GUID_SIZE] = { 0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43,
					      0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92 };
static const uint8_t zeros[SIGNER_SIZE];

/* ---- numbers ---- */

static uint32_t get16(const uint8_t *at)
{
	return (uint32_t)(at[0] | at[1] << 8);
}

static uint32_t get32(const uint8_t *at)
{
	return get16(at) | get16(at + 2) << 16;
}

static uint64_t get64(const uint8_t *at)
{
	return get32(at) | (uint64_t)get32(at + 4) << 32;
}

/* ---- lists of variables ---- */

static struct efivar *find(const struct efivars *all, const struct efivar *like)
{
	for (size_t i = 0; i < all->n; i++) {
		struct efivar *v = &all->v[i];
		if (v->name_size == like->name_size && !memcmp(v->owner, like->owner, GUID_SIZE) &&
		    !memcmp(v->name, like->name, like->name_size))
			return v;
	}
	return NULL;
}

static void add(struct task *t, struct efivars *all, const struct efivar *v)
{
	if (all->n % 64 == 0)
		all->v = talloc_realloc(t, all->v, struct efivar, all->n + 64);
	all->v[all->n++] = *v;
}

/* Whole characters, none of them 0. */
static bool name_ok(const uint8_t *name, uint64_t size)
{
	if (size == 0 || size % 2 || size > LONGEST_NAME)
		return false;
	for (uint64_t i = 0; i < size; i += 2)
		if (get16(name + i) == 0)
			return false;
	return true;
}

/* ---- the flash ---- */

static int bad_image(struct task *t, const char *why)
{
	return fail(t, INTERNAL_ERROR, str(t, "no store of UEFI variables: %s", why));
}

/* Where the entries are. */
struct area {
	uint8_t *at;
	size_t n;
};

static bool adds_up(const uint8_t *header, size_t n)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < n; i += 2)
		sum += get16(header + i);
	return (sum & 0xffff) == 0;
}

/* The size of the volume's header, 0 when there is none. */
static size_t volume_header(const uint8_t *image, size_t n)
{
	if (n < VOLUME_HEADER_LEAST || memcmp(image + VOLUME_MAGIC, "_FVH", 4) != 0 ||
	    memcmp(image + VOLUME_GUID, volume_guid, GUID_SIZE) != 0 ||
	    get64(image + VOLUME_SIZE) > n)
		return 0;
	size_t size = get16(image + VOLUME_HEADER_SIZE);
	bool fits = size >= VOLUME_HEADER_LEAST && size % 4 == 0 &&
		    size + AREA_HEADER <= get64(image + VOLUME_SIZE);
	return fits && adds_up(image, size) ? size : 0;
}

static int find_area(struct task *t, uint8_t *image, size_t n, struct area *ret)
{
	size_t header = volume_header(image, n);
	if (!header)
		return bad_image(t, "it does not begin as one");
	const uint8_t *h = image + header;
	uint32_t size = get32(h + AREA_SIZE);
	if (memcmp(h, area_guid, GUID_SIZE) != 0 || h[AREA_FORMATTED] != 0x5a ||
	    h[AREA_HEALTHY] != 0xfe)
		return bad_image(t, "its variables are of another kind");
	if (size < AREA_HEADER || size > get64(image + VOLUME_SIZE) - header)
		return bad_image(t, "it is smaller than it says");
	*ret = (struct area){ image + header + AREA_HEADER, size - AREA_HEADER };
	return 0;
}

struct entry {
	uint8_t state;
	struct efivar var;
};

/* A header that was being written when the power went has no sizes yet. */
static bool has_sizes(const uint8_t *e)
{
	return e[ENTRY_STATE] != 0xff && get32(e + ENTRY_ATTRIBUTES) != UINT32_MAX &&
	       get32(e + ENTRY_NAME_SIZE) != UINT32_MAX && get32(e + ENTRY_DATA_SIZE) != UINT32_MAX;
}

/* 1: the entry at *at, which moves behind it; 0: there is no more. */
static int next_entry(struct task *t, const struct area *a, size_t *at, struct entry *ret)
{
	size_t begin = (*at + 3) & ~(size_t)3;
	if (begin > a->n || a->n - begin < ENTRY_HEADER || get16(a->at + begin) != 0x55aa)
		return 0;
	const uint8_t *e = a->at + begin;
	uint32_t name = has_sizes(e) ? get32(e + ENTRY_NAME_SIZE) : 0;
	uint32_t data = has_sizes(e) ? get32(e + ENTRY_DATA_SIZE) : 0;
	size_t left = a->n - begin - ENTRY_HEADER;
	if (name > left || data > left - name)
		return bad_image(t, "a variable is larger than what is there");
	*at = begin + ENTRY_HEADER + name + data;
	*ret = (struct entry){
		.state = has_sizes(e) ? e[ENTRY_STATE] : 0,
		.var = { .name = e + ENTRY_HEADER,
			 .name_size = name,
			 .data = e + ENTRY_HEADER + name,
			 .data_size = data,
			 .owner = e + ENTRY_OWNER,
			 .time = e + ENTRY_TIME,
			 .attributes = get32(e + ENTRY_ATTRIBUTES) },
	};
	return 1;
}

/* The entry's variable, without the end of its name.  One without data is none. */
static int take_entry(struct task *t, struct efivar v, struct efivars *ret)
{
	if (v.name_size < 2 || get16(v.name + v.name_size - 2) != 0 ||
	    !name_ok(v.name, v.name_size - 2))
		return bad_image(t, "a variable's name is not sound");
	v.name_size -= 2;
	if (v.data_size == 0 || find(ret, &v))
		return 0;
	if (ret->n == MOST_VARIABLES)
		return bad_image(t, "there are too many variables");
	add(t, ret, &v);
	return 0;
}

static int read_area(struct task *t, const struct area *a, uint8_t state, struct efivars *ret)
{
	struct entry e = { 0 };
	size_t at = 0;
	int more;
	while ((more = next_entry(t, a, &at, &e)) > 0)
		if (e.state == state && take_entry(t, e.var, ret) < 0)
			return -1;
	return more;
}

/* What was about to be replaced counts where the new one has not come. */
int efivars_read_image(struct task *t, const void *image, size_t n, struct efivars *ret)
{
	struct area a;
	struct efivars found = { 0 };
	if (find_area(t, (uint8_t *)(uintptr_t)image, n, &a) < 0 ||
	    read_area(t, &a, WHOLE, &found) < 0 ||
	    read_area(t, &a, WHOLE_UNTIL_REPLACED, &found) < 0)
		return -1;
	*ret = found;
	return 0;
}

/* ---- writing the flash ---- */

static size_t entry_size(const struct efivar *v)
{
	return (ENTRY_HEADER + (size_t)v->name_size + 2 + v->data_size + 3) & ~(size_t)3;
}

static void put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof value);
}

static void write_entry(uint8_t *e, const struct efivar *v)
{
	memset(e, 0, ENTRY_HEADER);
	e[0] = 0xaa;
	e[1] = 0x55;
	e[ENTRY_STATE] = WHOLE;
	put32(e + ENTRY_ATTRIBUTES, v->attributes & ~(uint32_t)APPENDED);
	memcpy(e + ENTRY_TIME, v->time, TIME_SIZE);
	put32(e + ENTRY_NAME_SIZE, v->name_size + 2);
	put32(e + ENTRY_DATA_SIZE, v->data_size);
	memcpy(e + ENTRY_OWNER, v->owner, GUID_SIZE);
	uint8_t *name = e + ENTRY_HEADER;
	memcpy(name, v->name, v->name_size);
	memset(name + v->name_size, 0, 2);
	memcpy(name + v->name_size + 2, v->data, v->data_size);
}

/* Of two with the same name and owner the later one counts. */
static void merge(struct task *t, struct efivars *all, const struct efivars *more)
{
	for (size_t i = 0; i < more->n; i++) {
		const struct efivar *v = &more->v[i];
		if (!(v->attributes & LASTS))
			continue;
		struct efivar *old = find(all, v);
		if (old)
			*old = *v;
		else
			add(t, all, v);
	}
}

/* The area is written anew, without what was deleted in it. */
int efivars_put(struct task *t, void *image, size_t n, const struct efivars *more)
{
	struct area a;
	struct efivars all = { 0 };
	size_t needed = 0;
	if (find_area(t, image, n, &a) < 0 ||
	    efivars_read_image(t, talloc_memdup(t, image, n), n, &all) < 0)
		return -1;
	merge(t, &all, more);
	for (size_t i = 0; i < all.n; i++)
		needed += entry_size(&all.v[i]);
	if (needed > a.n)
		return fail(t, VALUE_NOT_SUPPORTED, "NVRAM", "EFI-variables",
			    str(t, "the variables take %zu bytes of %zu", needed, a.n));
	memset(a.at, 0xff, a.n);
	for (size_t i = 0, at = 0; i < all.n; at += entry_size(&all.v[i++]))
		write_entry(a.at + at, &all.v[i]);
	return 0;
}

/* ---- the blob ---- */

static int bad_blob(struct task *t, const char *why)
{
	return fail(t, VALUE_NOT_SUPPORTED, "NVRAM", "EFI-variables", why);
}

/* What is left to read; at is NULL once it was not enough. */
struct rest {
	const uint8_t *at;
	size_t n;
};

static const uint8_t *take(struct rest *r, uint64_t n)
{
	if (!r->at || n > r->n) {
		r->at = NULL;
		return NULL;
	}
	const uint8_t *taken = r->at;
	r->at += n;
	r->n -= n;
	return taken;
}

static const uint8_t *take_sized(struct rest *r, uint32_t *ret_n)
{
	const uint8_t *size = take(r, sizeof(uint64_t));
	const uint8_t *bytes = size ? take(r, get64(size)) : NULL;
	*ret_n = bytes ? (uint32_t)get64(size) : 0;
	return bytes;
}

static bool take_variable(struct rest *r, struct efivar *ret)
{
	ret->name = take_sized(r, &ret->name_size);
	ret->data = take_sized(r, &ret->data_size);
	ret->owner = take(r, GUID_SIZE);
	const uint8_t *attributes = take(r, sizeof(uint32_t));
	ret->time = take(r, TIME_SIZE);
	if (!take(r, SIGNER_SIZE))
		return false;
	ret->attributes = get32(attributes);
	return true;
}

/* Some writers end the name. */
static bool sound(struct efivar *v)
{
	if (v->name_size >= 2 && v->name_size % 2 == 0 && get16(v->name + v->name_size - 2) == 0)
		v->name_size -= 2;
	return name_ok(v->name, v->name_size) && v->data_size > 0;
}

/* How many variables there are; the size of all of them is not needed, nor is it looked at by varstored. */
static int take_header(struct task *t, struct rest *r, uint64_t *ret_count)
{
	const uint8_t *h = take(r, BLOB_HEADER);
	if (!h || memcmp(h, "VARS", 4) != 0)
		return bad_blob(t, "it is not in varstored's format");
	uint32_t version = get32(h + 4);
	if (version != 1 && version != 2)
		return bad_blob(t, str(t, "version %u of the format is not known", version));
	if (version == 2 && !take(r, BLOB_EXTRA))
		return bad_blob(t, "it ends too early");
	if (get64(h + 8) > MOST_VARIABLES)
		return bad_blob(t, "it has too many variables");
	*ret_count = get64(h + 8);
	return 0;
}

int efivars_read_blob(struct task *t, const void *blob, size_t n, struct efivars *ret)
{
	struct rest r = { blob, n };
	struct efivars found = { 0 };
	struct efivar v = { 0 };
	uint64_t count = 0;
	if (take_header(t, &r, &count) < 0)
		return -1;
	while (found.n < count) {
		if (!take_variable(&r, &v))
			return bad_blob(t, "it ends too early");
		if (!sound(&v))
			return bad_blob(t, "a variable in it is not sound");
		add(t, &found, &v);
	}
	if (r.n)
		return bad_blob(t, "there is more behind its last variable");
	*ret = found;
	return 0;
}

/* ---- writing a blob ---- */

static size_t blob_size(const struct efivar *v)
{
	return 2 * sizeof(uint64_t) + v->name_size + v->data_size + GUID_SIZE + sizeof(uint32_t) +
	       TIME_SIZE + SIGNER_SIZE;
}

static void give(uint8_t **at, const void *bytes, size_t n)
{
	memcpy(*at, bytes, n);
	*at += n;
}

static void give32(uint8_t **at, uint32_t value)
{
	value = htole32(value);
	give(at, &value, sizeof value);
}

static void give64(uint8_t **at, uint64_t value)
{
	value = htole64(value);
	give(at, &value, sizeof value);
}

static void give_variable(uint8_t **at, const struct efivar *v)
{
	give64(at, v->name_size);
	give(at, v->name, v->name_size);
	give64(at, v->data_size);
	give(at, v->data, v->data_size);
	give(at, v->owner, GUID_SIZE);
	give32(at, v->attributes);
	give(at, v->time, TIME_SIZE);
	give(at, zeros, SIGNER_SIZE);
}

uint8_t *efivars_write_blob(struct task *t, const struct efivars *all, size_t *ret_n)
{
	size_t count = 0, size = 0;
	for (size_t i = 0; i < all->n; i++)
		if (all->v[i].attributes & LASTS) {
			count++;
			size += blob_size(&all->v[i]);
		}
	uint8_t *blob = talloc_array(t, uint8_t, BLOB_HEADER + size), *at = blob;
	give(&at, "VARS", 4);
	give32(&at, 1);
	give64(&at, count);
	give64(&at, size);
	for (size_t i = 0; i < all->n; i++)
		if (all->v[i].attributes & LASTS)
			give_variable(&at, &all->v[i]);
	*ret_n = BLOB_HEADER + size;
	return blob;
}

/* ---- as text ---- */

int efivars_read_text(struct task *t, const char *text, struct efivars *ret)
{
	size_t n = strlen(text);
	if (n > LARGEST_BLOB)
		return bad_blob(t, "it is too large");
	const uint8_t *blob = n ? base64_bytes(t, text, &n) : NULL;
	return blob ? efivars_read_blob(t, blob, n, ret) : bad_blob(t, "it is not base64");
}

const char *efivars_write_text(struct task *t, const struct efivars *all)
{
	size_t n;
	const uint8_t *blob = efivars_write_blob(t, all, &n);
	const char *text = base64_text(t, blob, n);
	return text ? text : fail_ptr(t, INTERNAL_ERROR, "base64");
}
