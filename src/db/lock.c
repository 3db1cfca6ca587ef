// SPDX-License-Identifier: Apache-2.0
/* lock.c -- the database's lock.  Threads that serve the network come after those of the machine
 * itself: a crowd of clients that writes all the time does not keep root's commands, timers and
 * guests' events waiting for more than the transaction that is open just now. */
#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

#include "db/db.h"
#include "db/sql.h"

static struct {
	pthread_mutex_t lock;
	pthread_cond_t for_first, for_crowd; /* whoever may have it next is woken */
	int first, crowd;                    /* that wait */
	bool taken;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER,
	   .for_first = PTHREAD_COND_INITIALIZER,
	   .for_crowd = PTHREAD_COND_INITIALIZER };

static __thread bool gives_way;
static __thread int depth; /* how often this thread has it */

void db_give_way(bool yes)
{
	assert(depth == 0);
	gives_way = yes;
}

static void wait_among_first(void)
{
	gate.first++;
	while (gate.taken)
		pthread_cond_wait(&gate.for_first, &gate.lock);
	gate.first--;
}

static void wait_in_crowd(void)
{
	gate.crowd++;
	while (gate.taken || gate.first)
		pthread_cond_wait(&gate.for_crowd, &gate.lock);
	gate.crowd--;
}

void db_lock(void)
{
	if (depth++ > 0)
		return;
	pthread_mutex_lock(&gate.lock);
	(gives_way ? wait_in_crowd : wait_among_first)();
	gate.taken = true;
	pthread_mutex_unlock(&gate.lock);
}

void db_unlock(void)
{
	if (--depth > 0)
		return;
	pthread_mutex_lock(&gate.lock);
	gate.taken = false;
	if (gate.first)
		pthread_cond_signal(&gate.for_first);
	else if (gate.crowd)
		pthread_cond_signal(&gate.for_crowd);
	pthread_mutex_unlock(&gate.lock);
}
