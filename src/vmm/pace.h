// SPDX-License-Identifier: Apache-2.0
/* pace.h -- how fast a block job may be: as the storage can while the guest's disks are idle, a small part
 * of it while they are not.
 *
 * What the guest does is what QEMU counted for its disks, all of them, as they may share a storage. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct qmp;
struct task;

/* Bytes a second that a job always gets, and begins with; twice as many for each time that it was begun
 * before and had to make way: so it is done at last, however often the guest is snapshotted. */
enum { PACE_FLOOR = 24 << 20, PACE_HASTE_MAX = 8 };

struct pace {
	const char *job;
	uint64_t ops, bytes; /* of the guest until `since` */
	int64_t since, next; /* clock_ms(); 0: not yet measured */
	uint64_t floor;
	uint64_t speed; /* as set last, 0: without limit */
	unsigned idle;  /* looks in a row at which the guest did nothing */
};

struct pace pace_begin(const char *job, unsigned haste);
/* To be called often; looks a few times in a second.  sprint: without limit, whatever the guest does. */
int pace_step(struct task *, struct qmp *, struct pace *, bool sprint);
