// SPDX-License-Identifier: Apache-2.0
/* room.h -- work that only so many threads do at a time, whoever asks for it; the others wait for a while. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

struct task;

struct room {
	pthread_mutex_t lock; /* for moments only; nothing else is locked under it */
	pthread_cond_t freed;
	int n; /* that are in it */
};

#define ROOM_EMPTY                                                                                 \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER               \
	}

/* Waits at most ms until fewer than `most` are in it.  False: it is full still.  The task's request counts as one that
 * waits meanwhile. */
bool room_enter(struct task *, struct room *, int most, int ms);
void room_leave(struct room *);
