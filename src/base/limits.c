// SPDX-License-Identifier: Apache-2.0
#include "base/limits.h"

#include "base/clock.h"

enum { WHOLE = 1000 };

static void make_up(struct bucket *b, double each_s)
{
	int64_t now = clock_ms();
	double made = (double)(now - b->since_ms) * each_s;
	if (b->missing && made < 1)
		return; /* a part of a thousandth is not lost by being asked for often */
	b->missing = made >= (double)b->missing ? 0 : b->missing - (int64_t)made;
	b->since_ms = now;
}

bool bucket_take(struct bucket *b, int64_t n, int64_t most, double each_s)
{
	make_up(b, each_s);
	if (b->missing + n * WHOLE > most * WHOLE) {
		b->left_out += n;
		return false;
	}
	b->missing += n * WHOLE;
	return true;
}

int64_t bucket_owe(struct bucket *b, int64_t n, int64_t most, double each_s)
{
	make_up(b, each_s);
	b->missing += n * WHOLE;
	int64_t debt = b->missing - most * WHOLE;
	return debt > 0 ? (int64_t)((double)debt / each_s) + 1 : 0;
}
