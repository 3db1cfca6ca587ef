// SPDX-License-Identifier: Apache-2.0
#include "api/attempts.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/delay.h"
#include "base/task.h"
#include "base/text.h"

enum {
	SOURCES = 256, /* remembered; of more the one that was quiet for longest is forgotten */
	FREE = 5,      /* so many wrong ones cost nothing but the usual wait */
};

struct source {
	char name[64];
	int wrong;
	int64_t turn, last; /* when the next one may try; when the last one did */
};

static struct {
	pthread_mutex_t lock;
	struct source v[SOURCES];
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* "192.0.2.1:4711", "local uid=7 pid=9": without what differs from one connection to the next. */
static void name_of(const struct task *t, char *to, size_t n)
{
	const char *cut = starts_with(t->peer, "local") ? strstr(t->peer, " pid=") : NULL;
	if (!cut)
		cut = strrchr(t->peer, ':');
	snprintf(to, n, "%.*s", (int)(cut ? (size_t)(cut - t->peer) : strlen(t->peer)), t->peer);
}

/* Lock held; NULL: it has tried none that was wrong. */
static struct source *find(const char *name)
{
	for (size_t i = 0; i < SOURCES; i++)
		if (all.v[i].wrong && streq(all.v[i].name, name))
			return &all.v[i];
	return NULL;
}

/* Lock held. */
static struct source *add(const char *name)
{
	struct source *s = &all.v[0];
	for (size_t i = 1; i < SOURCES && s->wrong; i++)
		if (!all.v[i].wrong || all.v[i].last < s->last)
			s = &all.v[i];
	*s = (struct source){ 0 };
	snprintf(s->name, sizeof s->name, "%s", name);
	return s;
}

static int64_t gap(int wrong)
{
	int64_t ms = delay_ms(DELAY_LOGIN_GAP), most = delay_ms(DELAY_LOGIN_GAP_MOST);
	for (int i = FREE; i < wrong && ms < most; i++)
		ms *= 2;
	return ms < most ? ms : most;
}

/* In how many ms its turn comes; -1: too late.  Lock held. */
static int64_t take_turn(struct source *s, int64_t now)
{
	if (s->last + delay_ms(DELAY_LOGIN_FORGIVEN) < now)
		s->wrong = 0;
	if (s->wrong < FREE)
		return 0;
	int64_t turn = s->turn > now ? s->turn : now;
	if (turn - now > delay_ms(DELAY_LOGIN_PATIENCE))
		return -1;
	s->turn = turn + gap(s->wrong);
	return turn - now;
}

bool attempt_begin(struct task *t)
{
	char name[sizeof all.v[0].name];
	name_of(t, name, sizeof name);
	pthread_mutex_lock(&all.lock);
	struct source *s = find(name);
	int64_t ms = s ? take_turn(s, clock_ms()) : 0;
	pthread_mutex_unlock(&all.lock);
	return ms >= 0 && task_wait(t, -1, 0, (int)ms) == 0;
}

void attempt_end(struct task *t, bool right)
{
	char name[sizeof all.v[0].name];
	name_of(t, name, sizeof name);
	pthread_mutex_lock(&all.lock);
	struct source *s = find(name);
	if (right && s)
		s->wrong = 0;
	if (!right) {
		s = s ? s : add(name);
		s->wrong++;
		s->last = clock_ms();
	}
	pthread_mutex_unlock(&all.lock);
}
