// SPDX-License-Identifier: Apache-2.0
#include "memory/sums.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/task.h"
#include "base/text.h"
#include "memory/image_file.h"

enum { SUM = 8, PIECE_BYTES = SUMS_PIECE * SUM };

/* A piece's place in memory is told by its number, so that nothing has to be searched. */
struct place {
	uint64_t piece;
	bool taken, changed;
};

struct sums {
	int fd;
	uint64_t pages, pieces;
	uint64_t at;   /* in the file */
	bool any_left; /* some are there */
	uint64_t *checks;
	size_t kept;
	struct place *places;
	unsigned char *bytes; /* of the places */
};

static const unsigned char zeros[PIECE_BYTES];

struct sums *sums_new(const void *ctx, int fd, uint64_t pages, size_t kept)
{
	struct sums *s = talloc_zero(ctx, struct sums);
	s->fd = fd;
	s->pages = pages;
	s->pieces = (pages + SUMS_PIECE - 1) / SUMS_PIECE;
	s->kept = s->pieces < kept ? s->pieces : kept;
	s->checks = talloc_zero_size(s, s->pieces * sizeof *s->checks);
	s->places = talloc_zero_size(s, s->kept * sizeof *s->places);
	s->bytes = talloc_size(s, s->kept * PIECE_BYTES); /* touched as far as needed */
	assert(s->checks && s->places &&
	       s->bytes); /* IMAGE_PAGES_MAX is far below what talloc gives */
	return s;
}

/* ---- pieces ---- */

/* The last one may be shorter. */
static size_t bytes_of(const struct sums *s, uint64_t piece)
{
	uint64_t left = s->pages - piece * SUMS_PIECE;
	return (left < SUMS_PIECE ? left : SUMS_PIECE) * SUM;
}

static uint64_t at_of(const struct sums *s, uint64_t piece)
{
	return s->at + piece * PIECE_BYTES;
}

static uint64_t check_of(const unsigned char *bytes, size_t n)
{
	uint64_t check = XXH3_64bits(bytes, n);
	return check ? check : 1;
}

static bool is_kept(const struct sums *s, uint64_t piece)
{
	const struct place *p = &s->places[piece % s->kept];
	return p->taken && p->piece == piece;
}

static bool is_zeros(const struct sums *s, uint64_t piece)
{
	return !s->checks[piece] && !is_kept(s, piece);
}

static int put_away(struct task *t, struct sums *s, struct place *p, const unsigned char *bytes)
{
	size_t n = bytes_of(s, p->piece);
	if (!p->changed)
		return 0;
	assert(s->at);
	if (image_pwrite(t, s->fd, bytes, n, at_of(s, p->piece)) < 0)
		return -1;
	s->checks[p->piece] = check_of(bytes, n);
	s->any_left = true;
	p->changed = false;
	return 0;
}

static int bring_back(struct task *t, struct sums *s, uint64_t piece, unsigned char *bytes)
{
	size_t n = bytes_of(s, piece);
	memset(bytes + n, 0, PIECE_BYTES - n);
	if (!s->checks[piece]) {
		memset(bytes, 0, n);
		return 0;
	}
	if (image_pread(t, s->fd, bytes, n, at_of(s, piece)) < 0)
		return -1;
	return check_of(bytes, n) == s->checks[piece]
		       ? 0
		       : image_damaged(t, "its checksums are not what they were a moment ago");
}

static int fetch(struct task *t, struct sums *s, uint64_t piece, unsigned char **ret)
{
	struct place *p = &s->places[piece % s->kept];
	unsigned char *bytes = s->bytes + piece % s->kept * PIECE_BYTES;
	*ret = bytes;
	if (is_kept(s, piece))
		return 0;
	if (p->taken && put_away(t, s, p, bytes) < 0)
		return -1;
	p->taken = false;
	if (bring_back(t, s, piece, bytes) < 0)
		return -1;
	*p = (struct place){ .piece = piece, .taken = true };
	return 0;
}

/* ---- sums ---- */

int sums_get(struct task *t, struct sums *s, uint64_t page, uint64_t *ret)
{
	uint64_t piece = page / SUMS_PIECE;
	unsigned char *bytes;
	if (is_zeros(s, piece)) {
		*ret = 0;
		return 0;
	}
	if (fetch(t, s, piece, &bytes) < 0)
		return -1;
	*ret = get_be(bytes + page % SUMS_PIECE * SUM, SUM);
	return 0;
}

int sums_set(struct task *t, struct sums *s, uint64_t page, uint64_t sum, uint64_t *ret_before)
{
	uint64_t piece = page / SUMS_PIECE;
	unsigned char *bytes;
	*ret_before = 0;
	if (!sum && is_zeros(s, piece))
		return 0;
	if (fetch(t, s, piece, &bytes) < 0)
		return -1;
	bytes += page % SUMS_PIECE * SUM;
	*ret_before = get_be(bytes, SUM);
	put_be(bytes, SUM, sum);
	s->places[piece % s->kept].changed = true;
	return 0;
}

/* The first one from `from` on, of a piece; `to`: there is none. */
static size_t find_in(const unsigned char *bytes, size_t from, size_t to)
{
	while (from < to && memcmp(bytes + from * SUM, zeros, SUM) == 0)
		from++;
	return from;
}

int sums_find(struct task *t, struct sums *s, uint64_t page, uint64_t end, uint64_t *ret)
{
	while (page < end) {
		uint64_t piece = page / SUMS_PIECE, first = piece * SUMS_PIECE;
		size_t to = end - first < SUMS_PIECE ? end - first : SUMS_PIECE, found = to;
		unsigned char *bytes;
		if (!is_zeros(s, piece)) {
			if (fetch(t, s, piece, &bytes) < 0)
				return -1;
			found = find_in(bytes, page - first, to);
		}
		page = first + found;
		if (found < to)
			break;
	}
	*ret = page;
	return 0;
}

/* ---- writing ---- */

void sums_place(struct sums *s, uint64_t at)
{
	s->at = at;
}

static int write_piece(struct task *t, struct sums *s, uint64_t piece, XXH3_state_t *sum)
{
	unsigned char *bytes;
	if (task_check(t) < 0 || fetch(t, s, piece, &bytes) < 0 ||
	    put_away(t, s, &s->places[piece % s->kept], bytes) < 0)
		return -1;
	XXH3_64bits_update(sum, bytes, bytes_of(s, piece));
	return 0;
}

int sums_write(struct task *t, struct sums *s, uint64_t at, struct image_part *ret,
	       uint64_t *ret_bytes)
{
	XXH3_state_t *sum = XXH3_createState();
	int result = 0;
	s->at = s->any_left ? s->at : at;
	*ret_bytes = 0;
	XXH3_64bits_reset(sum);
	for (uint64_t piece = 0; result == 0 && piece < s->pieces; piece++) {
		if (is_zeros(s, piece)) {
			XXH3_64bits_update(sum, zeros, bytes_of(s, piece));
			continue;
		}
		*ret_bytes += bytes_of(s, piece);
		result = write_piece(t, s, piece, sum);
	}
	*ret = (struct image_part){ s->at, s->pages * SUM, XXH3_64bits_digest(sum) };
	XXH3_freeState(sum);
	return result;
}

/* ---- reading ---- */

/* The place of the next bytes from `at` on that are in no hole; `end`: there are none before it.  A file system that
 * does not know says that all is data. */
static uint64_t skip_hole(int fd, uint64_t at, uint64_t end)
{
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? end : at;
	return (uint64_t)data < end ? (uint64_t)data : end;
}

static uint64_t count_in(const unsigned char *bytes, size_t n)
{
	uint64_t pages = 0;
	for (size_t i = 0; i < n / SUM; i++)
		pages += memcmp(bytes + i * SUM, zeros, SUM) != 0;
	return pages;
}

static int read_piece(struct task *t, struct sums *s, uint64_t piece, XXH3_state_t *sum,
		      uint64_t *pages)
{
	unsigned char bytes[PIECE_BYTES];
	size_t n = bytes_of(s, piece);
	if (task_check(t) < 0 || image_pread(t, s->fd, bytes, n, at_of(s, piece)) < 0)
		return -1;
	uint64_t found = count_in(bytes, n);
	XXH3_64bits_update(sum, bytes, n);
	s->checks[piece] = found ? check_of(bytes, n) : 0;
	*pages += found;
	return 0;
}

static int read_pieces(struct task *t, struct sums *s, XXH3_state_t *sum, uint64_t *pages)
{
	uint64_t end = s->at + s->pages * SUM, data = s->at;
	for (uint64_t piece = 0; piece < s->pieces; piece++) {
		uint64_t at = at_of(s, piece);
		size_t n = bytes_of(s, piece);
		if (at >= data)
			data = skip_hole(s->fd, at, end);
		if (at + n <= data)
			XXH3_64bits_update(sum, zeros, n);
		else if (read_piece(t, s, piece, sum, pages) < 0)
			return -1;
	}
	return 0;
}

int sums_read(struct task *t, struct sums *s, const struct image_part *part, uint64_t *ret_pages)
{
	XXH3_state_t *sum = XXH3_createState();
	s->at = part->at;
	*ret_pages = 0;
	XXH3_64bits_reset(sum);
	int result = read_pieces(t, s, sum, ret_pages);
	bool same = XXH3_64bits_digest(sum) == part->sum;
	XXH3_freeState(sum);
	if (result < 0)
		return -1;
	return same ? 0 : image_damaged(t, "the checksum of its checksums is wrong");
}
