// SPDX-License-Identifier: Apache-2.0
#include "api/attempts.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/peer.h"
#include "base/task.h"
#include "base/text.h"

enum { NAME_ROOM = 64 }; /* longer ones are nobody's, and count as one by their beginning */

/* Tries from a source: for one user, or for all of them. */
struct tries {
	char source[NAME_ROOM], user[NAME_ROOM];
	bool used, of_all;
	bool known; /* of one user: the last one that ended was right */
	int wrong;
	int pending;        /* being looked at, or in line */
	int under_way;      /* these, and those that come too late to be in line */
	int64_t turn, last; /* when the next one may try; when the last one began or ended */
};

struct attempt {
	struct tries *user, *source;
	bool in_line;        /* it is one of the user's pending ones, */
	bool in_source_line; /* and of the source's */
	int64_t ms; /* to its turn; or as long as it waits for a right one that makes that needless */
};

struct waiter {
	struct waiter *next;
	const struct tries *user;
	int fd; /* eventfd: a right one has come */
};

static struct {
	pthread_mutex_t lock;
	struct tries v[LOGIN_SOURCES_LIMIT];
	struct waiter *waiters;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- the table; lock held ---- */

static bool is_of(const struct tries *s, const char *source, const char *user)
{
	if (!s->used || s->of_all != !user || !streq(s->source, source))
		return false;
	return !user || strncmp(s->user, user, NAME_ROOM - 1) == 0;
}

static bool is_quieter(const struct tries *s, const struct tries *other)
{
	return other->used && (!s->used || s->last < other->last);
}

/* user NULL: of all.  It is made where there is none, in the place of the one that was quiet for
 * longest; NULL: all are under way. */
static struct tries *tries_of(const char *source, const char *user)
{
	struct tries *quietest = NULL;
	for (size_t i = 0; i < COUNT(all.v); i++) {
		struct tries *s = &all.v[i];
		if (is_of(s, source, user))
			return s;
		if (!s->under_way && (!quietest || is_quieter(s, quietest)))
			quietest = s;
	}
	if (!quietest)
		return NULL;
	*quietest = (struct tries){ .used = true, .of_all = !user };
	snprintf(quietest->source, NAME_ROOM, "%s", source);
	snprintf(quietest->user, NAME_ROOM, "%s", user ? user : "");
	return quietest;
}

static void forgive(struct tries *s, int64_t now)
{
	if (!s->under_way && s->last + delay_ms(DELAY_LOGIN_FORGIVEN) < now)
		s->wrong = 0;
	if (!s->wrong && !s->under_way)
		s->turn = 0;
}

/* ---- turns; lock held ---- */

static int free_ones(const struct tries *s)
{
	return s->of_all  ? LOGIN_FREE_OF_SOURCE_LIMIT
	       : s->known ? LOGINS_OF_SOURCE_LIMIT
			  : LOGIN_FREE_LIMIT;
}

/* How many more there are than cost nothing; below 0: none. */
static int over(const struct tries *s)
{
	return s->wrong + s->pending - free_ones(s);
}

static int64_t gap(int over)
{
	int64_t ms = delay_ms(DELAY_LOGIN_GAP), most = delay_ms(DELAY_LOGIN_GAP_MOST);
	for (int i = 0; i < over && ms < most; i++)
		ms *= 2;
	return ms < most ? ms : most;
}

static int64_t turn_of(const struct tries *s, int64_t now)
{
	return over(s) >= 0 && s->turn > now ? s->turn : now;
}

static void take_turn(struct tries *s, int64_t turn, int64_t now)
{
	if (over(s) >= 0)
		s->turn = turn + gap(over(s));
	s->pending++;
	s->last = now;
}

static void stand_in_line(struct attempt *a, int64_t turn, int64_t now)
{
	a->in_line = true;
	a->in_source_line = !a->user->known;
	take_turn(a->user, turn, now);
	if (a->in_source_line)
		take_turn(a->source, turn, now);
}

static void find_turn(struct attempt *a, int64_t now)
{
	int64_t patience = delay_ms(DELAY_LOGIN_PATIENCE), turn = turn_of(a->user, now);
	int64_t other = a->user->known ? now : turn_of(a->source, now);
	turn = turn > other ? turn : other;
	a->ms = turn - now < patience ? turn - now : patience;
	if (turn - now <= patience)
		stand_in_line(a, turn, now);
}

/* ---- one try; lock held ---- */

static void count(struct attempt *a, int n)
{
	a->user->under_way += n;
	a->source->under_way += n;
}

/* False: there are too many. */
static bool enter(struct attempt *a, const char *source, const char *user)
{
	int64_t now = clock_ms();
	a->source = tries_of(source, NULL);
	if (!a->source)
		return false;
	a->source->under_way++; /* the other one does not take its place */
	a->user = tries_of(source, user);
	a->source->under_way--;
	if (!a->user)
		return false;
	forgive(a->user, now);
	forgive(a->source, now);
	if (!a->user->known && a->source->under_way >= LOGINS_OF_SOURCE_LIMIT)
		return false;
	find_turn(a, now);
	count(a, 1);
	return true;
}

static void leave(struct attempt *a)
{
	count(a, -1);
	a->user->pending -= a->in_line;
	a->source->pending -= a->in_source_line;
}

static void note(struct tries *s, enum attempt_outcome what)
{
	s->last = clock_ms();
	s->wrong += what == ATTEMPT_WRONG;
	if (s->of_all || what == ATTEMPT_UNKNOWN)
		return;
	s->known = what == ATTEMPT_RIGHT;
	if (s->known)
		s->wrong = 0;
}

/* The user is no guesser: those of his that wait need not. */
static void release(const struct tries *user)
{
	for (struct waiter *w = all.waiters; w; w = w->next)
		if (w->user == user)
			eventfd_write(w->fd, 1);
}

/* ---- waiting ---- */

static void delist(struct waiter *gone)
{
	struct waiter **at = &all.waiters;
	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
}

/* False: its turn has not come, or the task was cancelled. */
static bool await(struct task *t, struct attempt *a)
{
	FD_SCOPE int fd = eventfd(0, EFD_CLOEXEC);
	struct waiter w = { .user = a->user, .fd = fd };
	pthread_mutex_lock(&all.lock);
	w.next = all.waiters;
	all.waiters = &w;
	pthread_mutex_unlock(&all.lock);
	bool before = t->cancellable;
	t->cancellable = true; /* nothing has begun; the daemon's end does not wait for it */
	int ready = task_wait(t, fd, POLLIN, (int)a->ms);
	t->cancellable = before;
	pthread_mutex_lock(&all.lock);
	delist(&w);
	bool may = ready > 0 || (ready == 0 && a->in_line);
	if (may && !a->in_line)
		stand_in_line(a, clock_ms(), clock_ms());
	if (!may)
		leave(a);
	pthread_mutex_unlock(&all.lock);
	return may;
}

struct attempt *attempt_begin(struct task *t, const char *user)
{
	struct attempt *a = talloc_zero(t, struct attempt);
	const char *source = peer_source(t, t->peer);
	pthread_mutex_lock(&all.lock);
	bool in = enter(a, source, user);
	pthread_mutex_unlock(&all.lock);
	return in && (a->ms == 0 || await(t, a)) ? a : NULL;
}

void attempt_end(struct attempt *a, enum attempt_outcome what)
{
	pthread_mutex_lock(&all.lock);
	leave(a);
	note(a->user, what);
	note(a->source, what);
	if (what == ATTEMPT_RIGHT)
		release(a->user);
	pthread_mutex_unlock(&all.lock);
}
