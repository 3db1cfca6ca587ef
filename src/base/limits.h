// SPDX-License-Identifier: Apache-2.0
/* limits.h -- what outsiders can make the daemon spend: limits.def has the rows. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
#define LIMIT(name, value, whom, what, then) name##_LIMIT = (value),
#include "base/limits.def"
};

/* So many at once, and more as time goes by.  Zero is a full one; whoever has several threads
 * guards it. */
struct bucket {
	int64_t missing;  /* thousandths of one that were taken, and are not made up for */
	int64_t since_ms; /* on clock_ms() */
	int64_t left_out; /* that could not be taken since the last one that could */
};

/* n of at most `most`, which `each_s` a second make up for.  False: there are not so many.  What
 * was left out before one that can be taken is for the caller to tell and to clear. */
bool bucket_take(struct bucket *, int64_t n, int64_t most, double each_s);
/* The same, taken in any case; in how many ms the debt is made up for, 0: there is none. */
int64_t bucket_owe(struct bucket *, int64_t n, int64_t most, double each_s);
