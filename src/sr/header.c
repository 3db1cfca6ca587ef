// SPDX-License-Identifier: Apache-2.0
#include "sr/header.h"

#include <string.h>

#include "base/text.h"
#include "sr/sr.h"

enum {
	V2_LENGTH = 72,
	V3_LENGTH = 104,
	EXTENSION_BACKING_FORMAT = (int)0xe2792aca,
	EXTENSION_DATA_FILE = 0x44415441,
};

/* Incompatible features that harm nobody: dirty refcounts, compression type, extended L2. */
static const uint64_t known_features = 1 << 0 | 1 << 3 | 1 << 4;
static const uint64_t corrupt = 1 << 1, external_data = 1 << 2;

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(const uint8_t *p)
{
	return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static const char *check_features(const uint8_t *b)
{
	uint64_t features = be64(b + 72);
	if (features & corrupt)
		return "it is marked as corrupt";
	if (features & external_data)
		return "it names an external data file";
	return features & ~known_features ? "it has a feature that is not known" : NULL;
}

static const char *read_backing(const uint8_t *b, size_t n, struct header *h)
{
	uint64_t offset = be64(b + 8);
	uint32_t length = be32(b + 16);
	if (!offset)
		return NULL;
	if (length >= sizeof h->backing)
		return "the name of its backing file is too long";
	if (offset > n || length > n - offset || offset + length > (uint64_t)1 << h->cluster_bits)
		return "the name of its backing file lies outside the header";
	memcpy(h->backing, b + offset, length);
	return memchr(h->backing, 0, length) ? "the name of its backing file holds a NUL" : NULL;
}

static const char *read_extensions(const uint8_t *b, size_t n, size_t at, struct header *h)
{
	while (n - at >= 8) {
		uint32_t type = be32(b + at), length = be32(b + at + 4);
		at += 8;
		if (type == 0)
			return NULL;
		if (length > n - at)
			return "a header extension is longer than the header";
		if (type == EXTENSION_DATA_FILE)
			return "it names an external data file";
		if (type == (uint32_t)EXTENSION_BACKING_FORMAT) {
			if (length >= sizeof h->backing_format)
				return "the name of its backing format is too long";
			memcpy(h->backing_format, b + at, length);
			h->backing_format[length] = 0;
		}
		size_t padded = (length + 7) & ~(size_t)7;
		if (padded > n - at)
			return NULL;
		at += padded;
	}
	return NULL;
}

/* The L1 table has an entry for each so many bytes of disk: fewer entries, or absurdly many, is damage. */
static const char *check_sizes(const uint8_t *b, const struct header *h)
{
	uint64_t per_entry = (uint64_t)1 << (2 * h->cluster_bits - 3);
	uint64_t needed = h->virtual_size / per_entry + (h->virtual_size % per_entry != 0);
	if (h->virtual_size == 0 || h->virtual_size > MAX_VIRTUAL)
		return "its size cannot be used";
	if (be32(b + 36) < needed)
		return "its first-level table is too short";
	return be32(b + 60) > 65536 ? "it has too many internal snapshots" : NULL;
}

const char *header_read(const uint8_t *b, size_t n, struct header *h)
{
	const char *why;
	*h = (struct header){ 0 };
	if (n < V2_LENGTH || be32(b) != 0x514649fb)
		return "it is no qcow2 image";
	uint32_t version = be32(b + 4);
	if (version != 2 && version != 3)
		return "its version is not known";
	h->cluster_bits = be32(b + 20);
	h->virtual_size = be64(b + 24);
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return "its cluster size cannot be used";
	if (be32(b + 32))
		return "it is encrypted";
	if ((why = check_sizes(b, h)))
		return why;
	size_t length = V2_LENGTH;
	if (version == 3) {
		if (n < V3_LENGTH || (length = be32(b + 100)) < V3_LENGTH || length > n)
			return "its header is cut off";
		if ((why = check_features(b)))
			return why;
	}
	if ((why = read_backing(b, n, h)))
		return why;
	return read_extensions(b, n, length, h);
}

bool header_is_volume(const struct header *h, char *ret_parent)
{
	char id[25] = "";
	*ret_parent = 0;
	if (!*h->backing)
		return true;
	if (*h->backing_format && !streq(h->backing_format, "qcow2"))
		return false;
	if (strlen(h->backing) != 30 || !streq(h->backing + 24, ".qcow2"))
		return false;
	memcpy(id, h->backing, 24);
	if (!volume_id_ok(id))
		return false;
	memcpy(ret_parent, id, 25);
	return true;
}
