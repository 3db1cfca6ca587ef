// SPDX-License-Identifier: Apache-2.0
#include "sr/header.h"

#include <string.h>

#include "base/text.h"
#include "sr/sr.h"

enum {
	V2_LENGTH = 72,
	V3_LENGTH = 104,
	L1_MAX = 32 << 20, /* bytes, as QEMU has it */
	REFTABLE_MAX = 8 << 20,
	SNAPSHOT_MIN = 40, /* bytes that an entry of the snapshot table takes at least */
};

enum {
	FEATURE_DIRTY = 1,
	FEATURE_CORRUPT = 2,
	FEATURE_DATA_FILE = 4,
	FEATURE_COMPRESSION = 8,
	FEATURE_EXTENDED_L2 = 16,
	FEATURES = 31,
};

/* The header as it stands there, before anything is believed. */
struct raw {
	uint32_t magic, version;
	uint64_t backing_at;
	uint32_t backing_length, cluster_bits;
	uint64_t size;
	uint32_t crypt, l1_entries;
	uint64_t l1_at, reftable_at;
	uint32_t reftable_clusters, snapshots;
	uint64_t snapshots_at, features;
	uint32_t refcount_order, length;
	uint8_t compression;
};

struct bytes {
	const unsigned char *b;
	size_t n;
};

static uint32_t be32(struct bytes s, size_t at)
{
	const unsigned char *p = s.b + at;
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(struct bytes s, size_t at)
{
	return (uint64_t)be32(s, at) << 32 | be32(s, at + 4);
}

static void read_v3(struct bytes s, struct raw *r)
{
	r->features = be64(s, 72);
	r->refcount_order = be32(s, 96);
	r->length = be32(s, 100);
	if (r->length > V3_LENGTH && s.n > V3_LENGTH)
		r->compression = s.b[V3_LENGTH];
}

static struct raw read_raw(struct bytes s)
{
	struct raw r = {
		.magic = be32(s, 0),
		.version = be32(s, 4),
		.backing_at = be64(s, 8),
		.backing_length = be32(s, 16),
		.cluster_bits = be32(s, 20),
		.size = be64(s, 24),
		.crypt = be32(s, 32),
		.l1_entries = be32(s, 36),
		.l1_at = be64(s, 40),
		.reftable_at = be64(s, 48),
		.reftable_clusters = be32(s, 56),
		.snapshots = be32(s, 60),
		.snapshots_at = be64(s, 64),
		.refcount_order = 4, /* what version 2 always has */
		.length = V2_LENGTH,
	};
	if (r.version == 3 && s.n >= V3_LENGTH)
		read_v3(s, &r);
	return r;
}

/* A table of the image: whole, behind the header's cluster, on a cluster's border, in the file. */
static bool table_ok(const struct raw *r, uint64_t at, uint64_t n, uint64_t file_size)
{
	uint64_t cluster = UINT64_C(1) << r->cluster_bits;
	return at >= cluster && at % cluster == 0 && n <= file_size && at <= file_size - n;
}

static bool overlap(uint64_t a, uint64_t a_n, uint64_t b, uint64_t b_n)
{
	return a < b + b_n && b < a + a_n;
}

static const char *check_features(const struct raw *r)
{
	if (r->features & ~(uint64_t)FEATURES)
		return "it needs features that are not known here";
	if (r->features & FEATURE_CORRUPT)
		return "it is marked as corrupt";
	if (r->features & FEATURE_DATA_FILE)
		return "its data is in another file";
	if (r->compression > 1 || (r->compression && !(r->features & FEATURE_COMPRESSION)))
		return "its compression is not known here";
	if ((r->features & FEATURE_EXTENDED_L2) && r->cluster_bits < 14)
		return "its clusters are too small for extended L2 entries";
	return NULL;
}

static const char *check_shape(const struct raw *r)
{
	if (r->cluster_bits < 9 || r->cluster_bits > 21)
		return "its cluster size is out of range";
	if (r->size == 0 || r->size > HEADER_SIZE_MAX)
		return "its disk size is out of range";
	if (r->crypt)
		return "it is encrypted";
	if (r->refcount_order > 6)
		return "its refcounts are wider than 64 bits";
	if (r->version == 3 && (r->length < V3_LENGTH || r->length % 8))
		return "the length of its header is wrong";
	return check_features(r);
}

/* L1 entries that the disk's size takes: each covers an L2 table, which is one cluster. */
static uint64_t l1_needed(const struct raw *r)
{
	unsigned entry_bits = r->features & FEATURE_EXTENDED_L2 ? 4 : 3;
	unsigned bits = 2 * r->cluster_bits - entry_bits;
	return (r->size + (UINT64_C(1) << bits) - 1) >> bits;
}

static const char *check_tables(const struct raw *r, uint64_t file_size)
{
	uint64_t l1 = (uint64_t)r->l1_entries * 8;
	uint64_t reftable = (uint64_t)r->reftable_clusters << r->cluster_bits;
	if (l1 > L1_MAX || r->l1_entries < l1_needed(r))
		return "the size of its L1 table does not fit the disk";
	if (!table_ok(r, r->l1_at, l1, file_size))
		return "its L1 table lies where it cannot be";
	if (reftable == 0 || reftable > REFTABLE_MAX)
		return "the size of its refcount table is out of range";
	if (!table_ok(r, r->reftable_at, reftable, file_size))
		return "its refcount table lies where it cannot be";
	if (overlap(r->l1_at, l1, r->reftable_at, reftable))
		return "its tables overlap";
	if (r->snapshots > HEADER_SNAPSHOTS)
		return "it has too many internal snapshots";
	if (r->snapshots && !table_ok(r, r->snapshots_at, r->snapshots * SNAPSHOT_MIN, file_size))
		return "its snapshot table lies where it cannot be";
	return NULL;
}

/* A text inside the image: printable, so that no NUL cuts a name short and no log line breaks. */
static bool take_text(struct bytes s, uint64_t at, uint32_t n, size_t room, char *ret)
{
	if (n > room || at > s.n || n > s.n - at)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (s.b[at + i] < 32 || s.b[at + i] == 127)
			return false;
	memcpy(ret, s.b + at, n);
	ret[n] = 0;
	return true;
}

enum {
	EXTENSION_END = 0,
	EXTENSION_FORMAT = (int)0xe2792aca,
	EXTENSION_DATA_FILE = 0x44415441,
	EXTENSION_CRYPTO = 0x0537be77,
};

/* The extensions from the header's end to limit, where the backing's name or the cluster's end
 * is. */
static const char *read_extensions(struct bytes s, size_t at, size_t limit, struct header *h)
{
	while (at + 8 <= limit) {
		int type = (int)be32(s, at);
		uint32_t n = be32(s, at + 4);
		at += 8;
		if (type == EXTENSION_END)
			return NULL;
		if (n > limit - at)
			return "an extension is longer than the header";
		if (type == EXTENSION_DATA_FILE)
			return "it names a data file";
		if (type == EXTENSION_CRYPTO)
			return "it is encrypted";
		if (type == EXTENSION_FORMAT &&
		    !take_text(s, at, n, HEADER_FORMAT, h->backing_format))
			return "the format of its backing file is no name";
		at += (n + 7) & ~(size_t)7;
	}
	return NULL;
}

/* Header, extensions and backing's name, in this order, within the first cluster. */
static const char *read_names(struct bytes s, const struct raw *r, struct header *h)
{
	size_t cluster = (size_t)1 << r->cluster_bits;
	size_t limit = cluster < s.n ? cluster : s.n;
	if (r->length > limit)
		return "its header is cut off";
	if (r->backing_at) {
		if (r->backing_at < r->length || r->backing_at > limit ||
		    r->backing_length > limit - r->backing_at)
			return "the name of its backing file lies where it cannot be";
		if (!r->backing_length ||
		    !take_text(s, r->backing_at, r->backing_length, HEADER_NAME, h->backing))
			return "the name of its backing file is no name";
		limit = (size_t)r->backing_at;
	}
	return read_extensions(s, r->length, limit, h);
}

const char *header_read(const void *bytes, size_t n, uint64_t file_size, struct header *ret)
{
	struct bytes s = { bytes, n < HEADER_BYTES ? n : HEADER_BYTES };
	if (s.n < V2_LENGTH)
		return "it is too short";
	struct raw r = read_raw(s);
	if (r.magic != 0x514649fb)
		return "it is no qcow2 image";
	if (r.version != 2 && r.version != 3)
		return "its version is not known here";
	if (r.version == 3 && s.n < V3_LENGTH)
		return "it is too short";

	struct header h = {
		.version = r.version,
		.size = r.size,
		.cluster_bits = r.cluster_bits,
		.dirty = r.features & FEATURE_DIRTY,
		.extended = r.features & FEATURE_EXTENDED_L2,
		.snapshots = r.snapshots,
		.l1_at = r.l1_at,
		.reftable_at = r.reftable_at,
		.reftable_clusters = r.reftable_clusters,
	};
	const char *wrong = check_shape(&r);
	if (!wrong)
		wrong = check_tables(&r, file_size);
	if (!wrong)
		wrong = read_names(s, &r, &h);
	if (wrong)
		return wrong;
	h.l1_entries = (uint32_t)l1_needed(&r);
	*ret = h;
	return NULL;
}

/* The name as far as it can be shown, when there is one. */
static char *backing_text(const void *ctx, struct bytes s, const struct raw *r)
{
	uint64_t n = r->backing_length < HEADER_NAME ? r->backing_length : HEADER_NAME;
	if (!r->backing_at)
		return talloc_strdup(ctx, "");
	if (r->backing_at > s.n || n > s.n - r->backing_at)
		return str(ctx, ", backing file's name at %llu", (unsigned long long)r->backing_at);
	char *name = talloc_strndup(ctx, (const char *)s.b + r->backing_at, (size_t)n);
	return str(ctx, ", backing file \"%s\"", text_plain(ctx, name, 200));
}

char *header_values(const void *ctx, const void *bytes, size_t n)
{
	struct bytes s = { bytes, n < HEADER_BYTES ? n : HEADER_BYTES };
	if (s.n < V2_LENGTH)
		return str(ctx, "%zu bytes", n);
	struct raw r = read_raw(s);
	if (r.magic != 0x514649fb)
		return str(ctx, "it begins with 0x%08x", r.magic);
	return str(ctx,
		   "version %u, disk of %llu bytes, cluster_bits %u, encryption %u, features "
		   "0x%llx, "
		   "L1 table of %u entries at %llu, refcount table of %u clusters at %llu, %u "
		   "internal snapshots%s",
		   r.version, (unsigned long long)r.size, r.cluster_bits, r.crypt,
		   (unsigned long long)r.features, r.l1_entries, (unsigned long long)r.l1_at,
		   r.reftable_clusters, (unsigned long long)r.reftable_at, r.snapshots,
		   backing_text(ctx, s, &r));
}

const char *header_ours(const struct header *h, char *ret_parent)
{
	enum { ID = 24 };
	char id[ID + 1] = "";
	if (h->size % 512)
		return "its disk size is not a multiple of 512";
	if (*h->backing_format && !streq(h->backing_format, "qcow2"))
		return "its backing file is not qcow2";
	if (*h->backing) {
		memcpy(id, h->backing, ID); /* shorter ones: NULs, from backing's own room */
		if (!volume_id_ok(id) || !streq(h->backing + ID, ".qcow2"))
			return "its backing file is no volume beside it";
	}
	memcpy(ret_parent, id, sizeof id);
	return NULL;
}

const char *header_alone(const struct header *h)
{
	return *h->backing ? "it names a backing file" : NULL;
}
