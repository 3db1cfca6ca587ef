// SPDX-License-Identifier: Apache-2.0
/* migration.c -- reads QEMU's migration stream; migration.h draws it. */
#include "memory/migration.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/task.h"
#include "base/text.h"

enum section {
	SECTION_END_OF_FILE = 0x00,
	SECTION_START = 0x01,
	SECTION_PART = 0x02,
	SECTION_END = 0x03,
	SECTION_FULL = 0x04,
	SECTION_SUBSECTION = 0x05,
	SECTION_DESCRIPTION = 0x06,
	SECTION_CONFIGURATION = 0x07,
	SECTION_COMMAND = 0x08,
	SECTION_FOOTER = 0x7e
};

enum {
	MAGIC = 0x5145564d,
	VERSION = 3,
	RAM_VERSION = 4,
	NAME_MAX_BYTES = 256,
	SWITCHOVER_START = 11,
	CAPABILITIES = 64, /* at most, in the configuration */
	BUFFER = 256 << 10
};

enum flag {
	FLAG_ZERO = 0x02,
	FLAG_SIZE = 0x04,
	FLAG_PAGE = 0x08,
	FLAG_END = 0x10,
	FLAG_SAME_BLOCK = 0x20,
	FLAGS = MIGRATION_PAGE - 1
};

struct reader {
	struct task *t;
	const struct migration_source *source;
	const struct migration_sink *sink;
	uint64_t limit;

	uint8_t *buffer;
	size_t at, filled;
	uint64_t before; /* bytes of the stream before the buffer's */

	const char *machine;
	uint32_t ram; /* id of RAM's sections */
	struct migration_block blocks[MIGRATION_BLOCKS];
	size_t nblocks;
	size_t block; /* of the page before; nblocks: there is none */
};

static int wrong(struct reader *r, const char *what)
{
	return fail(r->t, INTERNAL_ERROR,
		    str(r->t, "The memory that QEMU sent cannot be read: %s, at byte %llu", what,
			(unsigned long long)(r->before + r->at)));
}

/* ---- bytes ---- */

/* At the end of the stream nothing is there. */
static int refill(struct reader *r)
{
	r->before += r->filled;
	r->at = r->filled = 0;
	ssize_t n = r->source->read(r->t, r->source->arg, r->buffer, BUFFER);
	if (n < 0)
		return -1;
	r->filled = (size_t)n;
	return 0;
}

static int get(struct reader *r, void *to, size_t n)
{
	for (uint8_t *p = to; n;) {
		if (r->at == r->filled && refill(r) < 0)
			return -1;
		size_t some = r->filled - r->at < n ? r->filled - r->at : n;
		if (!some)
			return wrong(r, "it ends too early");
		memcpy(p, r->buffer + r->at, some);
		r->at += some;
		p += some;
		n -= some;
	}
	return 0;
}

static int get_number(struct reader *r, size_t bytes, uint64_t *ret)
{
	uint8_t b[8];
	if (get(r, b, bytes) < 0)
		return -1;
	*ret = 0;
	for (size_t i = 0; i < bytes; i++)
		*ret = *ret << 8 | b[i];
	return 0;
}

static int get_u8(struct reader *r, uint8_t *ret)
{
	return get(r, ret, 1);
}

static int get_u32(struct reader *r, uint32_t *ret)
{
	uint64_t n;
	if (get_number(r, 4, &n) < 0)
		return -1;
	*ret = (uint32_t)n;
	return 0;
}

/* n bytes as a string. */
static int get_text(struct reader *r, size_t n, char ret[NAME_MAX_BYTES])
{
	if (n >= NAME_MAX_BYTES)
		return wrong(r, "a name is too long");
	if (get(r, ret, n) < 0)
		return -1;
	ret[n] = 0;
	return strlen(ret) == n ? 0 : wrong(r, "a name has a zero in it");
}

static int get_name(struct reader *r, char ret[NAME_MAX_BYTES])
{
	uint8_t n;
	return get_u8(r, &n) < 0 ? -1 : get_text(r, n, ret);
}

static int expect_u32(struct reader *r, uint32_t wanted, const char *what)
{
	uint32_t found;
	if (get_u32(r, &found) < 0)
		return -1;
	return found == wanted ? 0 : wrong(r, what);
}

/* ---- header and configuration ---- */

static int skip(struct reader *r, size_t n)
{
	uint8_t bytes[NAME_MAX_BYTES];
	return get(r, bytes, n);
}

static int skip_capabilities(struct reader *r)
{
	char name[NAME_MAX_BYTES];
	uint32_t n;
	if (get_u32(r, &n) < 0)
		return -1;
	if (n > CAPABILITIES)
		return wrong(r, "it has too many capabilities");
	for (uint32_t i = 0; i < n; i++)
		if (get_name(r, name) < 0)
			return -1;
	return 0;
}

static int skip_page_bits(struct reader *r)
{
	return skip(r, 4);
}

static int skip_uuid(struct reader *r)
{
	return skip(r, 16);
}

static int subsection(struct reader *r)
{
	static const struct {
		const char *name;
		int (*skip)(struct reader *);
	} known[] = {
		{ "configuration/capabilities", skip_capabilities },
		{ "configuration/target-page-bits", skip_page_bits },
		{ "configuration/uuid", skip_uuid },
	};
	char name[NAME_MAX_BYTES];
	uint32_t version;
	if (get_name(r, name) < 0 || get_u32(r, &version) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(known); i++)
		if (streq(name, known[i].name))
			return known[i].skip(r);
	return wrong(r, str(r->t, "its configuration has '%s'", name));
}

/* Up to and with the type of the section behind. */
static int head(struct reader *r, uint8_t *ret_type)
{
	char machine[NAME_MAX_BYTES];
	uint32_t n;
	uint8_t type;
	if (expect_u32(r, MAGIC, "it is no migration stream") < 0 ||
	    expect_u32(r, VERSION, "its version is not 3") < 0 || get_u8(r, &type) < 0)
		return -1;
	if (type != SECTION_CONFIGURATION)
		return wrong(r, "it has no configuration");
	if (get_u32(r, &n) < 0 || get_text(r, n, machine) < 0)
		return -1;
	r->machine = str(r->t, "%s", machine);
	do {
		if (get_u8(r, &type) < 0 || (type == SECTION_SUBSECTION && subsection(r) < 0))
			return -1;
	} while (type == SECTION_SUBSECTION);
	*ret_type = type;
	return 0;
}

/* ---- RAM ---- */

static size_t find_block(const struct reader *r, const char *name)
{
	size_t i = 0;
	while (i < r->nblocks && !streq(r->blocks[i].name, name))
		i++;
	return i;
}

static int one_block(struct reader *r, uint64_t *left)
{
	char name[NAME_MAX_BYTES];
	uint64_t size;
	if (get_name(r, name) < 0 || get_number(r, 8, &size) < 0)
		return -1;
	if (r->nblocks == MIGRATION_BLOCKS)
		return wrong(r, "it has too many blocks of RAM");
	if (!*name || find_block(r, name) < r->nblocks)
		return wrong(r, "two blocks of RAM have one name");
	if (!size || size % MIGRATION_PAGE || size > *left)
		return wrong(r, str(r->t, "the size of block '%s' is %llu", name,
				    (unsigned long long)size));
	r->blocks[r->nblocks++] = (struct migration_block){ str(r->t, "%s", name), size };
	*left -= size;
	return 0;
}

static int all_blocks(struct reader *r, uint64_t total)
{
	if (r->nblocks)
		return wrong(r, "RAM is described twice");
	if (!total || total > r->limit)
		return wrong(r, str(r->t, "it has %llu bytes of RAM, of at most %llu",
				    (unsigned long long)total, (unsigned long long)r->limit));
	while (total)
		if (one_block(r, &total) < 0)
			return -1;
	r->block = r->nblocks;
	return r->sink->begin(r->t, r->sink->arg, r->machine, r->nblocks, r->blocks);
}

static int choose_block(struct reader *r, bool same)
{
	char name[NAME_MAX_BYTES];
	if (!same) {
		if (get_name(r, name) < 0)
			return -1;
		r->block = find_block(r, name);
	}
	return r->block < r->nblocks ? 0 : wrong(r, "a page is of no block");
}

static int one_page(struct reader *r, uint64_t offset, unsigned flags)
{
	uint8_t page[MIGRATION_PAGE], fill = 0;
	const bool zero = flags & FLAG_ZERO;
	if (choose_block(r, flags & FLAG_SAME_BLOCK) < 0)
		return -1;
	if (offset >= r->blocks[r->block].size)
		return wrong(r, "a page lies behind its block");
	if (zero ? get_u8(r, &fill) < 0 : get(r, page, sizeof page) < 0)
		return -1;
	if (fill)
		return wrong(r, "a page is filled with what is not 0");
	return r->sink->page(r->t, r->sink->arg, r->block, offset, zero ? NULL : page);
}

static int payload(struct reader *r)
{
	for (uint64_t word;;) {
		if (get_number(r, 8, &word) < 0)
			return -1;
		unsigned flags = word & FLAGS;
		int done;
		switch (flags & ~(unsigned)FLAG_SAME_BLOCK) {
		case FLAG_END:
			return 0;
		case FLAG_SIZE:
			done = all_blocks(r, word - flags);
			break;
		case FLAG_PAGE:
		case FLAG_ZERO:
			done = one_page(r, word - flags, flags);
			break;
		default:
			done = wrong(r, str(r->t, "a page has flags 0x%x", flags));
		}
		if (done < 0)
			return -1;
	}
}

/* Its id, and for the first one its name and version. */
static int section_head(struct reader *r, uint8_t type)
{
	char name[NAME_MAX_BYTES];
	uint32_t instance;
	if (type != SECTION_START)
		return expect_u32(r, r->ram, "a section is not RAM's");
	if (r->nblocks)
		return wrong(r, "a second section begins before RAM's ended");
	if (get_u32(r, &r->ram) < 0 || get_name(r, name) < 0 || get_u32(r, &instance) < 0)
		return -1;
	if (!streq(name, "ram"))
		return wrong(r, str(r->t, "its first section is '%s'", name));
	return expect_u32(r, RAM_VERSION, "the version of RAM's section is not 4");
}

static int footer(struct reader *r)
{
	uint8_t type;
	if (get_u8(r, &type) < 0)
		return -1;
	return type == SECTION_FOOTER ? expect_u32(r, r->ram, "a section has another's footer")
				      : wrong(r, "a section has no footer");
}

static int ram_section(struct reader *r, uint8_t type)
{
	return section_head(r, type) < 0 || payload(r) < 0 || footer(r) < 0 ? -1 : 0;
}

/* It says nothing to who stores the stream. */
static int command(struct reader *r)
{
	uint64_t which, length;
	if (get_number(r, 2, &which) < 0 || get_number(r, 2, &length) < 0)
		return -1;
	return which == SWITCHOVER_START && !length
		       ? 0
		       : wrong(r, str(r->t, "it has command %u", (unsigned)which));
}

/* From the type of the first section, which was read already, up to the devices. */
static int ram(struct reader *r, uint8_t type)
{
	if (type != SECTION_START)
		return wrong(r, str(r->t, "its first section is of type %u", type));
	while (type == SECTION_START || type == SECTION_PART || type == SECTION_END ||
	       type == SECTION_COMMAND) {
		if ((type == SECTION_COMMAND ? command(r) : ram_section(r, type)) < 0)
			return -1;
		if (!r->nblocks)
			return wrong(r, "RAM is not described");
		if (type == SECTION_END)
			return 0;
		if (get_u8(r, &type) < 0)
			return -1;
	}
	if (type != SECTION_FULL)
		return wrong(r, str(r->t, "a section is of type %u", type));
	r->at--; /* it belongs to what is handed on verbatim */
	return 0;
}

/* ---- devices ---- */

/* All that is left, on the task. */
static int rest(struct reader *r, uint8_t **ret, size_t *ret_n)
{
	uint8_t *bytes = NULL;
	size_t n = 0;
	while (r->at < r->filled || (refill(r) == 0 && r->filled)) {
		size_t some = r->filled - r->at;
		if (n + some > MIGRATION_STATE_MAX)
			return wrong(r, "the devices have too much to say");
		bytes = talloc_realloc_size(r->t, bytes, n + some);
		memcpy(bytes + n, r->buffer + r->at, some);
		r->at += some;
		n += some;
	}
	*ret = bytes;
	*ret_n = n;
	return r->t->code == NO_ERROR ? 0 : -1;
}

/* Does it end as it should: with 00 and a description that is as long as it says?  Sections say no length, so
 * the beginning of that is looked for from the end. */
static bool is_whole(const uint8_t *bytes, size_t n)
{
	for (size_t i = n; i-- > 0;) {
		const uint8_t *p = bytes + i;
		if (n - i < 6 || p[0] != SECTION_END_OF_FILE || p[1] != SECTION_DESCRIPTION)
			continue;
		size_t length = (size_t)p[2] << 24 | (size_t)p[3] << 16 | (size_t)p[4] << 8 | p[5];
		if (length == n - i - 6)
			return true;
	}
	return false;
}

static int state(struct reader *r)
{
	uint8_t *bytes = NULL;
	size_t n = 0;
	if (rest(r, &bytes, &n) < 0)
		return -1;
	if (!is_whole(bytes, n))
		return wrong(r, "it ends in the middle of the devices");
	int result = r->sink->state(r->t, r->sink->arg, bytes, n);
	talloc_free(bytes);
	return result;
}

int migration_read(struct task *t, const struct migration_source *source, uint64_t limit,
		   const struct migration_sink *sink)
{
	struct reader *r = talloc_zero(t, struct reader);
	uint8_t type;
	r->t = t;
	r->source = source;
	r->sink = sink;
	r->limit = limit;
	r->buffer = talloc_size(r, BUFFER);
	int result = head(r, &type) < 0 || ram(r, type) < 0 || state(r) < 0 ? -1 : 0;
	talloc_free(r);
	return result;
}
