// SPDX-License-Identifier: Apache-2.0
/* relay.h -- bytes both ways between two ends, as a console wants them. */
#pragma once

struct task;

/* One end: where its bytes come from and where those for it go; often the same descriptor. */
struct relay_end {
	int in, out;
};

/* Copies from each end to the other until one of them ends: 0; -1 when the task is interrupted
 * or waiting fails.  A slow reader at one end does not hold up the other direction.  leave is
 * a byte from a that ends it, too (and is not copied), -1 for none. */
int relay(struct task *, struct relay_end a, struct relay_end b, int leave);
