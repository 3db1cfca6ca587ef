// SPDX-License-Identifier: Apache-2.0
/* event.c -- what has happened since: event.from.
 *
 * Every write of a row has a generation. A token is the generation up to which its holder has seen
 * everything, so nothing is kept for a client, and none can be forgotten:
 *
 *     00000000000000000042,00000000000000000042        objects, messages: here the same
 *
 * An object that was made and deleted since is not mentioned. */
#include "api/event.h"

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>

#include "api/call.h"
#include "api/role.h"
#include "api/session.h"
#include "base/delay.h"
#include "base/limits.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"

/* ---- tokens and subscriptions ---- */

static const char *token_text(const void *ctx, int64_t generation)
{
	return str(ctx, "%020" PRId64 ",%020" PRId64, generation, generation);
}

static int token_read(struct task *t, const char *token, int64_t *ret)
{
	struct list halves = list_split(t, token, ',');
	int64_t of_messages;
	*ret = -1;
	if (!*token)
		return 0;
	if (halves.n != 2 || !text_int(halves.v[0], ret) || !text_int(halves.v[1], &of_messages) ||
	    *ret < 0 || *ret > db_generation())
		return fail(t, EVENT_FROM_TOKEN_PARSE_FAILURE, token);
	return 0;
}

/* "*", "vm", "vm/OpaqueRef:...".  Clients ask for classes that this server has not: no events. */
static int check_subscriptions(struct task *t, const struct list *wanted)
{
	if (wanted->n > SUBSCRIPTIONS_LIMIT)
		return fail(t, VALUE_NOT_SUPPORTED, "classes", str(t, "%zu classes", wanted->n),
			    str(t, "a session can wait for %d at most", SUBSCRIPTIONS_LIMIT));
	for (size_t i = 0; i < wanted->n; i++) {
		const char *s = wanted->v[i], *slash = strchr(s, '/');
		bool is_sound = *s && *s != '/' && strlen(s) <= SUBSCRIPTION_LIMIT &&
				(!slash || (slash[1] && !strchr(slash + 1, '/')));
		if (!is_sound)
			return fail(t, EVENT_SUBSCRIPTION_PARSE_FAILURE, s);
	}
	return 0;
}

/* ref NULL: of any object of the class. */
static bool is_wanted(const struct list *wanted, const char *class, const char *ref)
{
	for (size_t i = 0; i < wanted->n; i++) {
		const char *s = wanted->v[i];
		size_t n = strcspn(s, "/");
		if (streq(s, "*"))
			return true;
		if (strncasecmp(s, class, n) == 0 && !class[n] &&
		    (!s[n] || !ref || streq(s + n + 1, ref)))
			return true;
	}
	return false;
}

/* ---- what has happened ---- */

/* Of sessions nothing is told: their refs are secrets. */
static bool is_told(struct task *t, const struct list *wanted, const struct class *c)
{
	return c && c != &class_session && is_wanted(wanted, c->name, NULL) && role_sees(t, c);
}

static const char *lower(const void *ctx, const char *class)
{
	char *s = talloc_strdup(ctx, class);
	for (char *p = s; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return s;
}

static void add(struct event_batch *b, int64_t id, const char *class,
		enum event_operation operation, const char *ref)
{
	b->v = talloc_realloc(b, b->v, struct event, b->n + 1);
	b->v[b->n++] = (struct event){
		.id = id,
		.timestamp = "0.0",
		.class = lower(b, class),
		.operation = operation,
		.ref = talloc_strdup(b, ref),
		.obj_uuid = "",
	};
}

/* Of one class.  The rows themselves are read when they are told: at first there may be very many. */
static void add_changed(struct task *t, struct event_batch *b, const struct list *wanted,
			const struct class *c, int64_t since)
{
	for (struct changed *r = db_changed(t, c, since); r->ref; r++)
		if (is_wanted(wanted, c->name, r->ref))
			add(b, r->gen, c->name,
			    r->born > since ? event_operation_add : event_operation_mod, r->ref);
}

/* What is new comes before what is only changed, for it may be named there; each in the order of writing. */
static int in_order(const void *one, const void *other)
{
	const struct event *a = one, *b = other;
	if (a->operation != b->operation)
		return a->operation < b->operation ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static int add_deleted(struct task *t, struct event_batch *b, const struct list *wanted,
		       int64_t since)
{
	struct deleted *d = db_deleted(t, since);
	for (; d && d->class; d++)
		if (is_told(t, wanted, model_class(d->class)) &&
		    is_wanted(wanted, d->class, d->ref))
			add(b, d->gen, d->class, event_operation_del, d->ref);
	return d ? 0 : -1;
}

static void count_refs(struct task *t, struct event_batch *b, const struct list *wanted)
{
	for (size_t i = 0; classes[i]; i++)
		if (is_told(t, wanted, classes[i]))
			map_set(b, &b->valid_ref_counts, lower(b, classes[i]->name),
				str(b, "%" PRId64, db_count(classes[i])));
}

/* since -1: all that is there is new.  One transaction: the token and the counts are of one moment.  A record may be
 * told as it was a little later; then it is told again. */
static int look(struct task *t, struct event_batch *b, const struct list *wanted, int64_t since,
		int64_t *ret_now)
{
	DB_SCOPE(t);
	for (size_t i = 0; classes[i]; i++)
		if (is_told(t, wanted, classes[i]))
			add_changed(t, b, wanted, classes[i], since);
	if (b->n)
		qsort(b->v, b->n, sizeof *b->v, in_order);
	if (since >= 0 && add_deleted(t, b, wanted, since) < 0)
		return -1;
	count_refs(t, b, wanted);
	*ret_now = db_generation();
	b->token = token_text(b, *ret_now);
	return db_commit(t);
}

/* The batch owns all that was read for it: whoever frees it frees everything. */
static struct event_batch *batch(struct task *t, const struct list *wanted, int64_t since,
				 int64_t *ret_now)
{
	struct event_batch *b = talloc_zero(t, struct event_batch);
	struct task *reader = task_new(b, t->name);
	reader->session = t->session;
	if (look(reader, b, wanted, since, ret_now) == 0)
		return b;
	task_fail_params(t, reader->code, reader->params);
	talloc_free(b);
	return NULL;
}

/* Until something has changed, or ms are over.  Changes come in bursts: in one, they are waited for so long that many
 * go at once.  One that comes alone goes at once. */
static int wait_for_change(struct task *t, int64_t now, int ms)
{
	int64_t then = db_wait(t, now, ms);
	if (then <= now)
		return then < 0 ? -1 : 0;
	int batch = delay_ms(DELAY_EVENT_BATCH);
	int result = db_pace() < batch ? task_wait(t, -1, 0, batch) : 0;
	task_work(t); /* all that wait have been woken */
	return result;
}

const struct row *event_object(struct task *t, const struct event *e)
{
	bool ended = e->operation == event_operation_del;
	return ended ? NULL : db_seek_row(t, model_class(e->class), e->ref);
}

/* ---- the calls ---- */

static int64_t end_of(double timeout_s)
{
	double ms = timeout_s > 0 ? timeout_s * 1000 : 0, most = delay_ms(DELAY_EVENT_MOST);
	return clock_ms() + (int64_t)(ms < most ? ms : most);
}

/* A client that may be gone is answered at once. */
int event_from(struct task *t, struct event_from *a)
{
	int64_t since, now, end = end_of(a->timeout);
	if (check_subscriptions(t, &a->classes) < 0 || token_read(t, a->token, &since) < 0)
		return -1;
	for (;; since = now) {
		struct event_batch *b = batch(t, &a->classes, since, &now);
		int64_t left = end - clock_ms();
		if (!b)
			return -1;
		if (b->n || since < 0 || left <= 0) {
			a->result = b;
			return 0;
		}
		talloc_free(b);
		int look = delay_ms(DELAY_EVENT_LOOK);
		if (wait_for_change(t, now, left < look ? (int)left : look) < 0)
			return -1;
		if (task_is_left(t))
			end = 0;
	}
}

int event_inject(struct task *t, struct event_inject *a)
{
	const struct class *c = model_class(a->class);
	DB_SCOPE(t);
	if (!c || c == &class_session)
		return fail(t, HANDLE_INVALID, a->class, a->ref);
	if (role_check_sees(t, c, str(t, "event.inject/%s", c->name)) < 0)
		return -1;
	struct row *r = db_get_row(t, c, a->ref);
	if (!r)
		return -1;
	if (db_put(t, r) < 0 || db_commit(t) < 0)
		return -1;
	a->result = token_text(t, r->gen);
	return 0;
}

int event_get_current_id(struct task *t, struct event_get_current_id *a)
{
	(void)t;
	a->result = db_generation();
	return 0;
}

/* ---- the old way: the server remembers what the client has seen ---- */

struct listener {
	struct listener *next;
	const char *session;
	struct list classes;
	int64_t seen;
};

static struct {
	pthread_mutex_t lock;
	struct listener *first;
} listeners = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Lock held. */
static struct listener *listener_of(const char *session)
{
	struct listener *l = listeners.first;
	while (l && !streq(l->session, session))
		l = l->next;
	return l;
}

static struct listener *listener_new(const char *session)
{
	struct listener *l = talloc_zero(NULL, struct listener);
	l->session = talloc_strdup(l, session);
	l->seen = db_generation();
	l->next = listeners.first;
	listeners.first = l;
	return l;
}

static void forget(const char *session)
{
	pthread_mutex_lock(&listeners.lock);
	struct listener **at = &listeners.first, *l;
	while ((l = *at) && !streq(l->session, session))
		at = &l->next;
	if (l) {
		*at = l->next;
		talloc_free(l);
	}
	pthread_mutex_unlock(&listeners.lock);
}

/* Those whose session has ended. */
static void drop_listeners(struct task *t)
{
	struct list gone = { 0 };
	pthread_mutex_lock(&listeners.lock);
	for (struct listener *l = listeners.first; l; l = l->next)
		list_add(t, &gone, l->session);
	pthread_mutex_unlock(&listeners.lock);
	for (size_t i = 0; i < gone.n; i++)
		if (!db_seek(t, session, gone.v[i]))
			forget(gone.v[i]);
}

int event_register(struct task *t, struct event_register *a)
{
	if (check_subscriptions(t, &a->classes) < 0)
		return -1;
	drop_listeners(t);
	pthread_mutex_lock(&listeners.lock);
	struct listener *l = listener_of(t->session);
	if (!l)
		l = listener_new(t->session);
	struct list all = list_copy(t, &l->classes);
	for (size_t i = 0; i < a->classes.n; i++)
		list_put(t, &all, a->classes.v[i]);
	bool room = all.n <= SUBSCRIPTIONS_LIMIT;
	for (size_t i = l->classes.n; room && i < all.n; i++)
		list_add(l, &l->classes, all.v[i]);
	pthread_mutex_unlock(&listeners.lock);
	return room ? 0 : check_subscriptions(t, &all);
}

int event_unregister(struct task *t, struct event_unregister *a)
{
	pthread_mutex_lock(&listeners.lock);
	struct listener *l = listener_of(t->session);
	for (size_t i = 0; l && i < a->classes.n; i++)
		list_remove(&l->classes, a->classes.v[i]);
	pthread_mutex_unlock(&listeners.lock);
	return 0;
}

/* What it is told of, and from where on. */
static int listener_read(struct task *t, struct list *ret_classes, int64_t *ret_seen)
{
	pthread_mutex_lock(&listeners.lock);
	const struct listener *l = listener_of(t->session);
	if (l) {
		*ret_classes = list_copy(t, &l->classes);
		*ret_seen = l->seen;
	}
	pthread_mutex_unlock(&listeners.lock);
	return l && ret_classes->n ? 0 : fail(t, SESSION_NOT_REGISTERED, t->session);
}

static void listener_note(struct task *t, int64_t seen)
{
	pthread_mutex_lock(&listeners.lock);
	struct listener *l = listener_of(t->session);
	if (l)
		l->seen = seen;
	pthread_mutex_unlock(&listeners.lock);
}

/* What is asked of may change meanwhile, by another connection, and the session end: it is looked at now and
 * then. */
static int wait_for_more(struct task *t, int64_t now)
{
	if (wait_for_change(t, now, delay_ms(DELAY_EVENT_LOOK)) < 0)
		return -1;
	return session_check(t, t->session) ? 0 : -1;
}

int event_next(struct task *t, struct event_next *a)
{
	for (;;) {
		struct list wanted = { 0 };
		int64_t seen = 0, now;
		if (listener_read(t, &wanted, &seen) < 0)
			return -1;
		struct event_batch *b = batch(t, &wanted, seen, &now);
		if (!b && t->code == EVENTS_LOST)
			listener_note(t, db_generation());
		if (!b)
			return -1;
		listener_note(t, now);
		a->result = b;
		if (b->n)
			return 0;
		talloc_free(b);
		if (wait_for_more(t, now) < 0)
			return -1;
	}
}
