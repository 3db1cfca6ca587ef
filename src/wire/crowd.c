// SPDX-License-Identifier: Apache-2.0
#include "wire/crowd.h"

#include <pthread.h>
#include <sys/socket.h>

#include "base/limits.h"
#include "base/text.h"

/* One of those for whom requests are served just now. */
struct user {
	struct user *next;
	char *name;
	int requests;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct connection *first;
	struct user *users;
	bool closing;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void enter(void)
{
	pthread_mutex_lock(&all.lock);
}

static void leave(void)
{
	pthread_mutex_unlock(&all.lock);
}

void crowd_init(struct crowd *crowd, const struct shares *most)
{
	*crowd = (struct crowd){ .most = *most };
	crowd->last = &crowd->first;
}

/* ---- sources; lock held ---- */

static struct source *source_of(struct crowd *crowd, const char *name)
{
	struct source *s = crowd->sources;
	while (s && !streq(s->name, name))
		s = s->next;
	if (s)
		return s;
	s = talloc_zero(NULL, struct source);
	s->crowd = crowd;
	s->name = talloc_strdup(s, name);
	s->ready.last = &s->ready.first;
	s->resuming.last = &s->resuming.first;
	s->next = crowd->sources;
	return crowd->sources = s;
}

static void source_free(struct source *gone)
{
	struct source **at = &gone->crowd->sources;
	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
	talloc_free(gone);
}

static struct source *greediest(struct crowd *crowd, size_t (*of)(const struct source *))
{
	struct source *most = NULL;
	for (struct source *s = crowd->sources; s; s = s->next)
		if (!most || of(s) > of(most))
			most = s;
	return most;
}

static size_t connections_of(const struct source *s)
{
	return (size_t)s->connections;
}

static size_t strangers_of(const struct source *s)
{
	return (size_t)s->strangers;
}

static size_t bodies_of(const struct source *s)
{
	return s->bodies;
}

/* ---- connections; lock held ---- */

static void hold(struct connection *c, size_t n)
{
	c->held += n;
	c->source->bodies += n;
	c->source->crowd->bodies += n;
}

static void let_go(struct connection *c)
{
	c->source->crowd->bodies -= c->held;
	c->source->bodies -= c->held;
	c->held = 0;
}

static bool is_unserved(const struct connection *c)
{
	return c->state == PARKED || c->state == READY;
}

/* Of the source's that nobody serves, the one that has been so for longest; held: of those that
 * hold a body's bytes. */
static struct connection *oldest_unserved(const struct source *s, bool held,
					  const struct connection *but)
{
	struct connection *oldest = NULL;
	for (struct connection *c = all.first; c; c = c->next)
		if (c != but && c->source == s && is_unserved(c) && (!held || c->held) &&
		    (!oldest || c->since <= oldest->since))
			oldest = c;
	return oldest;
}

/* ---- whose turn it is; lock held ---- */

static void append_source(struct source *s)
{
	s->next_turn = NULL;
	*s->crowd->last = s;
	s->crowd->last = &s->next_turn;
}

static void remove_source(struct source *gone)
{
	struct crowd *crowd = gone->crowd;
	struct source **at = &crowd->first;
	while (*at && *at != gone)
		at = &(*at)->next_turn;
	if (*at)
		*at = gone->next_turn;
	if (crowd->last == &gone->next_turn)
		crowd->last = at;
}

static bool has_any(const struct source *s)
{
	return s->ready.first || s->resuming.first;
}

static void append(struct line *l, struct connection *c)
{
	if (!has_any(c->source))
		append_source(c->source);
	c->next_in_line = NULL;
	*l->last = c;
	l->last = &c->next_in_line;
}

static void remove_from(struct line *l, struct connection *gone)
{
	struct connection **at = &l->first;
	while (*at != gone)
		at = &(*at)->next_in_line;
	*at = gone->next_in_line;
	if (l->last == &gone->next_in_line)
		l->last = at;
	if (!has_any(gone->source))
		remove_source(gone->source);
}

/* Whoever asked has it from now on. */
static struct connection *take(struct connection *c)
{
	if (c && c->state == READY)
		remove_from(&c->source->ready, c);
	if (c)
		c->state = SERVED;
	return c;
}

/* ---- coming and going ---- */

/* *ret_victim goes; NULL: nobody has to.  False: there is no room.  Lock held. */
static bool make_room(struct source *s, struct connection **ret_victim)
{
	const struct shares *most = &s->crowd->most;
	*ret_victim = NULL;
	if (s->connections >= most->connections_of_source)
		return false;
	if (s->crowd->connections < most->connections)
		return true;
	struct source *other = greediest(s->crowd, connections_of);
	if (other->connections <= s->connections + 1)
		return false;
	*ret_victim = take(oldest_unserved(other, false, NULL));
	return *ret_victim;
}

bool crowd_enter(struct crowd *crowd, struct connection *c, const char *source,
		 struct connection **ret_victim)
{
	enter();
	struct source *s = source_of(crowd, source);
	bool room = make_room(s, ret_victim);
	if (room) {
		c->source = s;
		c->next = all.first;
		all.first = c;
		s->connections++;
		crowd->connections++;
	} else if (!s->connections) {
		source_free(s);
	}
	leave();
	return room;
}

void crowd_leave(struct connection *c)
{
	enter();
	struct connection **at = &all.first;
	struct source *s = c->source;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	let_go(c);
	s->crowd->connections--;
	if (--s->connections == 0)
		source_free(s);
	pthread_cond_broadcast(&all.changed);
	leave();
}

struct connection *crowd_need_room(struct connection *c, size_t n)
{
	struct connection *victim = NULL;
	enter();
	struct source *s = c->source;
	const struct shares *most = &s->crowd->most;
	if (s->bodies + n > most->bodies_of_source)
		victim = oldest_unserved(s, true, c);
	if (!victim && s->crowd->bodies + n > most->bodies)
		victim = oldest_unserved(greediest(s->crowd, bodies_of), true, c);
	if (!victim)
		hold(c, n);
	take(victim);
	leave();
	return victim;
}

/* ---- turns ---- */

bool crowd_park(struct connection *c, int ms, bool (*see)(struct connection *))
{
	enter();
	c->since = clock_ms();
	c->until = c->since + ms;
	c->state = all.closing ? SERVED : PARKED;
	if (c->state == PARKED && !see(c))
		c->state = SERVED;
	bool parked = c->state == PARKED;
	leave();
	return parked;
}

bool crowd_is_parked(const struct connection *c)
{
	enter();
	bool parked = c->state == PARKED;
	leave();
	return parked;
}

void crowd_ready(struct connection *c)
{
	enter();
	c->state = READY;
	c->since = clock_ms();
	append(&c->source->ready, c);
	leave();
}

/* ---- counting; lock held ---- */

/* One that counts: who has been disconnected for being one does not. */
static bool is_stranger(const struct connection *c)
{
	return c->waits && c->for_client && !c->user && !c->displaced;
}

static void count_stranger(struct connection *c, int n)
{
	c->source->strangers += n;
	c->source->crowd->strangers += n;
}

static void count(struct connection *c, int n)
{
	struct source *s = c->source;
	*(c->waits ? &s->waiting : &s->working) += n;
	*(c->waits ? &s->crowd->waiting : &s->crowd->working) += n;
	if (is_stranger(c))
		count_stranger(c, n);
}

static void count_as(struct connection *c, bool waits, bool for_client)
{
	count(c, -1);
	c->waits = waits;
	c->for_client = for_client;
	count(c, 1);
}

/* ---- the next one; lock held ---- */

static bool may_begin(const struct source *s)
{
	const struct crowd *crowd = s->crowd;
	const struct shares *most = &crowd->most;
	return s->waiting < most->waiting_of_source && s->answers < most->answers_of_source &&
	       (crowd->waiting < most->waiting || s->working + s->waiting < most->waiting_share);
}

/* NULL: the source has none that may work now. */
static struct connection *next_of(const struct source *s)
{
	struct connection *ready = may_begin(s) ? s->ready.first : NULL;
	struct connection *resuming = s->resuming.first;
	if (s->working >= s->crowd->most.working_of_source)
		return NULL;
	if (ready && resuming)
		return s->resumed ? ready : resuming;
	return ready ? ready : resuming;
}

/* It is off its line, and its source at the end of the sources'. */
static struct connection *next_in_turn(struct crowd *crowd)
{
	struct connection *c = NULL;
	for (struct source *s = crowd->first; s && !c; s = s->next_turn)
		c = next_of(s);
	if (!c)
		return NULL;
	struct source *s = c->source;
	s->resumed = c->state == RESUMES;
	remove_from(s->resumed ? &s->resuming : &s->ready, c);
	if (has_any(s)) {
		remove_source(s);
		append_source(s);
	}
	return c;
}

static void begin_work(struct connection *c)
{
	c->state = SERVED;
	c->since = clock_ms();
	c->waits = c->for_client = c->displaced = false;
	let_go(c);
	count(c, 1);
}

/* It has a thread, which waits for this. */
static void go_on(struct connection *c)
{
	c->state = SERVED;
	count_as(c, false, false);
	pthread_cond_signal(&c->may_go_on);
}

static struct connection *next(struct crowd *crowd)
{
	struct connection *c = NULL;
	while (!all.closing && crowd->working < crowd->most.working &&
	       (c = next_in_turn(crowd)) != NULL) {
		if (c->state != RESUMES) {
			begin_work(c);
			return c;
		}
		go_on(c);
	}
	return NULL;
}

struct connection *crowd_next(struct crowd *crowd, bool thread)
{
	enter();
	struct connection *c = next(crowd);
	crowd->threads += (c && !thread) - (!c && thread);
	pthread_cond_broadcast(&all.changed);
	leave();
	return c;
}

void crowd_no_thread(struct connection *c)
{
	enter();
	count(c, -1);
	c->source->crowd->threads--;
	leave();
}

/* ---- users; lock held ---- */

static struct user *user_of(const char *name)
{
	struct user *u = all.users;
	while (u && !streq(u->name, name))
		u = u->next;
	if (u)
		return u;
	u = talloc_zero(NULL, struct user);
	u->name = talloc_strdup(u, name);
	u->next = all.users;
	return all.users = u;
}

static void forget_user(struct connection *c)
{
	struct user *gone = c->user, **at = &all.users;
	c->user = NULL;
	if (!gone || --gone->requests > 0)
		return;
	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
	talloc_free(gone);
}

/* ---- while it is served ---- */

void crowd_begin(struct connection *c, struct task *t)
{
	enter();
	c->task = t;
	if (all.closing)
		task_interrupt(t);
	leave();
}

void crowd_done(struct connection *c)
{
	enter();
	c->task = NULL;
	count(c, -1);
	c->waits = false;
	forget_user(c);
	leave();
}

/* Of the source's requests that wait, and are strangers'.  Lock held. */
static struct connection *oldest_stranger(const struct source *s)
{
	struct connection *oldest = NULL;
	for (struct connection *c = all.first; c; c = c->next)
		if (c->source == s && c->task && is_stranger(c) &&
		    (!oldest || c->since < oldest->since))
			oldest = c;
	return oldest;
}

/* Its thread notices when it reads or writes next.  Lock held. */
static void displace_stranger(struct source *s)
{
	struct connection *c = oldest_stranger(s);
	if (!c)
		return;
	count_stranger(c, -1);
	c->displaced = true;
	shutdown(c->fd, SHUT_RDWR);
}

bool crowd_rest(struct connection *c, bool for_client)
{
	struct source *s = c->source;
	struct crowd *crowd = s->crowd;
	enter();
	bool counts = crowd->most.remote && c->task, news = counts && !c->waits;
	if (counts) {
		count_as(c, true, for_client);
		if (s->strangers > crowd->most.strangers_of_source)
			displace_stranger(s);
		if (crowd->strangers > crowd->most.strangers)
			displace_stranger(greediest(crowd, strangers_of));
	}
	leave();
	return news;
}

bool crowd_line_up(struct connection *c)
{
	enter();
	bool lines_up = c->waits && c->task && !all.closing;
	if (lines_up) {
		pthread_cond_init(&c->may_go_on, NULL);
		c->state = RESUMES;
		append(&c->source->resuming, c);
	}
	leave();
	return lines_up;
}

void crowd_await(struct connection *c)
{
	enter();
	while (c->state == RESUMES && !all.closing)
		pthread_cond_wait(&c->may_go_on, &all.lock);
	if (c->state == RESUMES)
		remove_from(&c->source->resuming, c);
	c->state = SERVED;
	pthread_cond_destroy(&c->may_go_on);
	leave();
}

int crowd_vouch(struct connection *c, struct task *t, const char *name)
{
	bool room = true;
	enter();
	if (c->source->crowd->most.remote && !c->user) {
		struct user *u = user_of(name);
		room = u->requests < REQUESTS_OF_USER_LIMIT;
		if (room && is_stranger(c))
			count_stranger(c, -1);
		u->requests += room;
		c->user = room ? u : NULL;
	}
	leave();
	return room ? 0 : fail(t, TOO_BUSY);
}

void crowd_owe(struct connection *c, ptrdiff_t n)
{
	enter();
	c->source->answers = (size_t)((ptrdiff_t)c->source->answers + n);
	leave();
}

/* ---- late, and at the end ---- */

struct connection *crowd_late(int64_t now)
{
	enter();
	struct connection *c = all.first;
	while (c && (c->state != PARKED || c->until > now))
		c = c->next;
	take(c);
	leave();
	return c;
}

struct connection *crowd_unserved(void)
{
	enter();
	struct connection *c = all.first;
	while (c && !is_unserved(c))
		c = c->next;
	take(c);
	leave();
	return c;
}

void crowd_open(void)
{
	enter();
	all.closing = false;
	leave();
}

void crowd_close(void)
{
	enter();
	all.closing = true;
	for (struct connection *c = all.first; c; c = c->next) {
		if (is_unserved(c))
			continue;
		if (c->state == RESUMES)
			pthread_cond_signal(&c->may_go_on);
		if (c->task)
			task_interrupt(c->task);
		shutdown(c->fd, SHUT_RDWR);
	}
	pthread_cond_broadcast(&all.changed);
	leave();
}

void crowd_wait_empty(const struct crowd *crowds, size_t n)
{
	enter();
	for (size_t i = 0; i < n; i++)
		while (crowds[i].connections || crowds[i].threads)
			pthread_cond_wait(&all.changed, &all.lock);
	leave();
}
