// SPDX-License-Identifier: Apache-2.0
#include "base/room.h"

#include "base/clock.h"
#include "base/task.h"

bool room_enter(struct task *t, struct room *r, int most, int ms)
{
	int64_t until = clock_ms() + ms;
	task_rest(t, -1);
	pthread_mutex_lock(&r->lock);
	while (r->n >= most && clock_ms() < until)
		clock_wait(&r->freed, &r->lock, until);
	bool free = r->n < most;
	r->n += free;
	pthread_mutex_unlock(&r->lock);
	return free;
}

void room_leave(struct room *r)
{
	pthread_mutex_lock(&r->lock);
	r->n--;
	pthread_cond_signal(&r->freed);
	pthread_mutex_unlock(&r->lock);
}
