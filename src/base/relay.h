// SPDX-License-Identifier: Apache-2.0
/* relay.h -- bytes both ways between two ends, as a console wants them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct task;

enum { RELAY_PIECE = 4096, RELAY_ROOM = 4 };

/* A protocol that carries the bytes of an end.  All of it works on memory of the relay. */
struct relay_wrap {
	/* Takes the n bytes that came from the end for those that they carry, in place.  false:
	 * with these the end has said that no more will come. */
	bool (*unwrap)(void *arg, char *bytes, size_t n, size_t *ret_n);
	/* Makes n bytes, 1 to RELAY_PIECE, ready to be sent to the end, with as many of the
	 * RELAY_ROOM bytes in front of them as it returns. */
	size_t (*wrap)(void *arg, char *bytes, size_t n);
	/* What the protocol itself has to say to the end now, at most RELAY_PIECE bytes, or 0.
	 * last: nothing is sent behind it. */
	size_t (*own)(void *arg, char *to, bool last);
	void *arg;
};

/* One end: where its bytes come from and where those for it go; often the same descriptor. */
struct relay_end {
	int in, out;
	const struct relay_wrap *wrap; /* NULL: the bytes as they are */
};

/* Copies from each end to the other until one of them ends: 0; -1 when the task is interrupted
 * or waiting fails.  A slow reader at one end does not hold up the other direction.  leave is
 * a byte from a that ends it, too (and is not copied), -1 for none. */
int relay(struct task *, struct relay_end a, struct relay_end b, int leave);
