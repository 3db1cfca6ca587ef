// SPDX-License-Identifier: Apache-2.0
/* test_crowd.c -- who has the next turn, and who goes when there is no room: without sockets, threads or time. */
#include "wire/crowd.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/text.h"
#include "unit/check.h"

static const struct shares few = {
	.connections = 10,
	.connections_of_source = 8,
	.working = 3,
	.working_of_source = 2,
	.waiting = 4,
	.waiting_of_source = 3,
	.waiting_share = 1,
	.strangers = 3,
	.strangers_of_source = 2,
	.bodies = 100,
	.bodies_of_source = 60,
	.answers_of_source = 50,
	.remote = true,
};

static bool agrees(struct connection *c)
{
	(void)c;
	return true;
}

static struct connection *new (void)
{
	struct connection *c = talloc_zero(NULL, struct connection);
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	c->fd = pair[0]; /* the other end stays open as long as the test */
	return c;
}

/* One that is idle; NULL: it was not let in. */
static struct connection *idle(struct crowd *crowd, const char *source,
			       struct connection **ret_victim)
{
	struct connection *c = new (), *victim;
	bool in = crowd_enter(crowd, c, source, &victim);
	if (ret_victim)
		*ret_victim = victim;
	else
		CHECK(!victim);
	if (in) {
		CHECK(crowd_park(c, 1000, agrees));
		return c;
	}
	close(c->fd);
	talloc_free(c);
	return NULL;
}

static void leave(struct connection *c)
{
	crowd_leave(c);
	close(c->fd);
	talloc_free(c);
}

static struct connection *ready(struct crowd *crowd, const char *source)
{
	struct connection *c = idle(crowd, source, NULL);
	CHECK(c);
	crowd_ready(c);
	return c;
}

static void leave_all(void)
{
	for (struct connection *c; (c = crowd_unserved()) != NULL;)
		leave(c);
}

/* A full house: the newcomer takes the place of one of who has most, the oldest; who has as many does not get in. */
static void test_connections(void)
{
	struct crowd crowd;
	struct connection *victim, *of_a[8], *of_b[8];
	crowd_init(&crowd, &few);
	for (int i = 0; i < 8; i++) {
		of_a[i] = idle(&crowd, "a", NULL);
		of_a[i]->since = i;
	}
	CHECK(!idle(&crowd, "a", &victim) && !victim); /* it has enough */
	for (int i = 0; i < 2; i++)
		of_b[i] = idle(&crowd, "b", NULL);
	for (int i = 2; i < 5; i++) {
		of_b[i] = idle(&crowd, "b", &victim);
		CHECK(of_b[i] && victim == of_a[i - 2]);
		leave(victim);
	}
	CHECK(!idle(&crowd, "b", &victim) && !victim); /* five each */
	struct connection *c = idle(&crowd, "c", &victim);
	CHECK(c && victim);
	leave(victim);
	CHECK(crowd.connections == 10);
	leave_all();
	CHECK(crowd.connections == 0 && !crowd.sources);
}

/* Sources have turns one after the other, and so many at a time. */
static void test_turns(void)
{
	struct crowd crowd;
	struct connection *a[4], *b[2], *c;
	crowd_init(&crowd, &few);
	for (int i = 0; i < 4; i++)
		a[i] = ready(&crowd, "a");
	for (int i = 0; i < 2; i++)
		b[i] = ready(&crowd, "b");
	CHECK(crowd_next(&crowd, false) == a[0]);
	CHECK(crowd_next(&crowd, false) == b[0]);
	CHECK(crowd_next(&crowd, false) == a[1]);
	CHECK(!crowd_next(&crowd, false) && crowd.working == 3 && crowd.threads == 3);
	crowd_done(a[0]);
	CHECK((c = crowd_next(&crowd, true)) == b[1]);
	crowd_done(b[0]);
	crowd_done(b[1]);
	CHECK(crowd_next(&crowd, true) == a[2] && !crowd_next(&crowd, true));
	CHECK(crowd.working == 2 && crowd.threads == 2);
	crowd_done(a[1]);
	crowd_done(a[2]);
	CHECK(crowd_next(&crowd, true) == a[3]);
	crowd_done(a[3]);
	CHECK(!crowd_next(&crowd, true) && !crowd_next(&crowd, true));
	CHECK(crowd.threads == 0 && crowd.working == 0);
	for (int i = 0; i < 4; i++)
		leave(a[i]);
	for (int i = 0; i < 2; i++)
		leave(b[i]);
}

static struct connection *serve(struct crowd *crowd, const char *source, struct task *t,
				const char *user)
{
	ready(crowd, source);
	struct connection *c = crowd_next(crowd, false);
	if (!c)
		return NULL;
	crowd_begin(c, t);
	CHECK(!user || crowd_vouch(c, t, user) == 0);
	return c;
}

static bool is_disconnected(const struct connection *c)
{
	return send(c->fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0;
}

static void finish(struct crowd *crowd, struct connection *c)
{
	crowd_done(c);
	leave(c);
	crowd->threads--;
}

/* Who waits is not at work; of those that wait a source has so many, and a share that others cannot take. */
static void test_waiting(struct task *t)
{
	struct crowd crowd;
	struct connection *waits[5], *c;
	crowd_init(&crowd, &few);
	for (int i = 0; i < 3; i++) {
		CHECK((waits[i] = serve(&crowd, "a", t, "alice")));
		CHECK(crowd_rest(waits[i], false) && !crowd_rest(waits[i], false));
	}
	CHECK(!serve(&crowd, "a", t, "alice")); /* it stands in line */
	CHECK((waits[3] = serve(&crowd, "b", t, "bob")) && crowd_rest(waits[3], false));
	CHECK(crowd.waiting == 4 && crowd.working == 0);
	CHECK(!serve(&crowd, "b", t, "bob"));
	CHECK((waits[4] = serve(&crowd, "c", t, "carol")) && crowd_rest(waits[4], false));
	CHECK(crowd.waiting == 5);
	finish(&crowd, waits[0]);
	finish(&crowd, waits[3]);
	CHECK(crowd.waiting == 3 && (c = crowd_next(&crowd, false)));
	crowd_begin(c, t);
	finish(&crowd, c);
	for (int i = 1; i < 5; i++)
		if (i != 3)
			finish(&crowd, waits[i]);
	leave_all();
	CHECK(crowd.connections == 0 && crowd.waiting == 0 && crowd.strangers == 0);
}

/* Who has waited has turns among those that begin, and one after the other with them. */
static void test_resuming(struct task *t)
{
	struct crowd crowd;
	struct connection *waits[2], *works[2], *other, *c;
	crowd_init(&crowd, &few);
	for (int i = 0; i < 2; i++)
		CHECK((waits[i] = serve(&crowd, "a", t, "alice")) && crowd_rest(waits[i], false));
	for (int i = 0; i < 2; i++)
		CHECK((works[i] = serve(&crowd, "a", t, "alice")));
	for (int i = 0; i < 2; i++)
		CHECK(crowd_line_up(waits[i]));
	CHECK(!crowd_line_up(works[0])); /* it works already */
	CHECK((other = serve(&crowd, "b", t, "bob")) && waits[0]->state == RESUMES);
	finish(&crowd, other);
	CHECK(!serve(&crowd, "a", t, "alice") && crowd.waiting == 2 && crowd.working == 2);
	finish(&crowd, works[0]);
	CHECK(!crowd_next(&crowd, false) && waits[0]->state == SERVED && !waits[0]->waits);
	CHECK(waits[1]->state == RESUMES && crowd.waiting == 1 && crowd.working == 2);
	crowd_await(waits[0]); /* not for long */
	finish(&crowd, waits[0]);
	CHECK((c = crowd_next(&crowd, false)) && waits[1]->state == RESUMES);
	crowd_begin(c, t);
	finish(&crowd, works[1]);
	CHECK(!crowd_next(&crowd, false) && waits[1]->state == SERVED);
	crowd_await(waits[1]);
	finish(&crowd, waits[1]);
	finish(&crowd, c);
	CHECK(crowd.working == 0 && crowd.waiting == 0 && crowd.connections == 0 && !crowd.first);
}

/* Of strangers that wait the oldest is disconnected: of its source, or of the source that has most. */
static void test_strangers(struct task *t)
{
	struct crowd crowd;
	struct connection *a[4], *b, *c, *known;
	crowd_init(&crowd, &few);
	for (int i = 0; i < 3; i++) {
		CHECK((a[i] = serve(&crowd, "a", t, NULL)));
		a[i]->since = i;
		CHECK(crowd_rest(a[i], true));
	}
	CHECK(is_disconnected(a[0]) && !is_disconnected(a[1]));
	CHECK(a[0]->displaced && !a[1]->displaced && !a[2]->displaced && crowd.strangers == 2);
	CHECK((b = serve(&crowd, "b", t, NULL)) && crowd_rest(b, true) && crowd.strangers == 3);
	finish(&crowd, a[0]);
	CHECK((c = serve(&crowd, "c", t, NULL)) && crowd_rest(c, true));
	CHECK(a[1]->displaced && !a[2]->displaced && !b->displaced && !c->displaced);
	CHECK(crowd.strangers == 3);
	finish(&crowd, a[1]);
	/* One that does not wait for its client any more is not one of them, nor one that becomes known. */
	CHECK(!crowd_rest(b, false) && crowd.strangers == 2 && !crowd_rest(b, true));
	CHECK(crowd.strangers == 3);
	CHECK(crowd_vouch(c, t, "carol") == 0 && crowd.strangers == 2);
	finish(&crowd, b);
	CHECK((known = serve(&crowd, "c", t, "carol")) && crowd_rest(known, true) &&
	      crowd.strangers == 1);
	finish(&crowd, a[2]);
	finish(&crowd, c);
	finish(&crowd, known);
	CHECK(crowd.connections == 0 && crowd.strangers == 0 && crowd.waiting == 0);
}

/* Bytes of what has not come whole: of its source, or of the one that has most, the oldest one goes for it. */
static void test_bodies(void)
{
	struct crowd crowd;
	crowd_init(&crowd, &few);
	struct connection *one = idle(&crowd, "a", NULL), *two = idle(&crowd, "a", NULL),
			  *other = idle(&crowd, "b", NULL), *third = idle(&crowd, "c", NULL);
	one->since = 1;
	two->since = 2;
	CHECK(!crowd_need_room(one, 30) && !crowd_need_room(two, 30) && crowd.bodies == 60);
	CHECK(crowd_need_room(two, 10) == one);
	leave(one);
	CHECK(!crowd_need_room(two, 10) && crowd.bodies == 40);
	CHECK(!crowd_need_room(other, 50) && crowd.bodies == 90);
	CHECK(crowd_need_room(third, 20) == other);
	leave(other);
	CHECK(!crowd_need_room(third, 20) && crowd.bodies == 60);
	leave_all();
	CHECK(crowd.bodies == 0);
}

/* Who does not take his answers gets no more of them. */
static void test_answers(struct task *t)
{
	struct crowd crowd;
	crowd_init(&crowd, &few);
	struct connection *c = serve(&crowd, "a", t, NULL);
	crowd_owe(c, 50);
	CHECK(!serve(&crowd, "a", t, NULL));
	crowd_owe(c, -50);
	struct connection *next = crowd_next(&crowd, false);
	CHECK(next);
	crowd_begin(next, t);
	finish(&crowd, c);
	finish(&crowd, next);
}

static void test_users(struct task *t)
{
	struct shares plenty = few;
	plenty.connections = plenty.connections_of_source = 1000;
	plenty.working = plenty.working_of_source = plenty.waiting = plenty.waiting_of_source =
		1000;
	struct crowd crowd;
	crowd_init(&crowd, &plenty);
	static struct connection *c[REQUESTS_OF_USER_LIMIT];
	for (size_t i = 0; i < COUNT(c); i++)
		CHECK((c[i] = serve(&crowd, i % 2 ? "a" : "b", t, "alice")));
	struct connection *more = serve(&crowd, "c", t, NULL);
	CHECK(crowd_vouch(more, t, "alice") < 0 && t->code == TOO_BUSY);
	task_forgive(t);
	CHECK(crowd_vouch(more, t, "bob") == 0 && crowd_vouch(more, t, "bob") == 0);
	finish(&crowd, c[0]);
	CHECK((c[0] = serve(&crowd, "c", t, "alice")));
	for (size_t i = 0; i < COUNT(c); i++)
		finish(&crowd, c[i]);
	finish(&crowd, more);
}

/* At the local socket it is only counted. */
static void test_local(struct task *t)
{
	struct shares local = { .connections = 3,
				.connections_of_source = 3,
				.working = 2,
				.working_of_source = 2,
				.waiting = 1,
				.waiting_of_source = 1,
				.bodies = SIZE_MAX,
				.bodies_of_source = SIZE_MAX,
				.answers_of_source = SIZE_MAX };
	struct crowd crowd;
	CHECK(LOCAL_CONNECTIONS_LIMIT > LOCAL_REQUESTS_LIMIT &&
	      WAITING_LIMIT > WAITING_OF_SOURCE_LIMIT);
	CHECK(WAITING_SHARE_LIMIT > 0 && STRANGERS_LIMIT > STRANGERS_OF_SOURCE_LIMIT);
	CHECK(BODIES_LIMIT > BODIES_OF_SOURCE_LIMIT);
	crowd_init(&crowd, &local);
	struct connection *one = serve(&crowd, "", t, NULL), *two = serve(&crowd, "", t, NULL);
	CHECK(one && two && !crowd_rest(one, false) && crowd_vouch(one, t, "root") == 0 &&
	      crowd.working == 2);
	CHECK(!serve(&crowd, "", t, NULL));
	finish(&crowd, one);
	struct connection *next = crowd_next(&crowd, false);
	CHECK(next);
	crowd_begin(next, t);
	finish(&crowd, two);
	finish(&crowd, next);
}

static void test_end(struct task *t)
{
	struct crowd crowd;
	crowd_init(&crowd, &few);
	struct connection *served = serve(&crowd, "a", t, NULL), *waits = ready(&crowd, "a");
	crowd_close();
	CHECK(task_check(t) == 0 && t->cancelled && is_disconnected(served));
	CHECK(!crowd_next(&crowd, false) && !crowd_park(served, 1000, agrees));
	CHECK(crowd_unserved() == waits && !crowd_unserved());
	leave(waits);
	finish(&crowd, served);
	crowd_wait_empty(&crowd, 1);
	crowd_open();
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	test_connections();
	test_turns();
	test_waiting(t);
	test_resuming(t);
	test_strangers(t);
	test_bodies();
	test_answers(t);
	test_users(t);
	test_local(t);
	test_end(t);
	talloc_free(t);
	return 0;
}
