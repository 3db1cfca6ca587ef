// SPDX-License-Identifier: Apache-2.0
/* test_keeper.c -- what a keeper remembers of what its guest tells: the last word of each kind, in order, and no more than
 * so much, whatever a QEMU says that somebody has taken over. */
#include <stdio.h>
#include <talloc.h>

#include "api/guest.h"
#include "base/limits.h"
#include "base/text.h"
#include "unit/check.h"

/* One that is being started: nobody looks at what it tells. */
static struct guest *guest_new(void)
{
	struct guest *g = talloc_zero(NULL, struct guest);
	g->ref = "OpaqueRef:vm";
	pthread_cond_init(&g->news, NULL);
	return g;
}

static void guest_free(struct guest *g)
{
	for (struct happening *h; (h = g->first);) {
		g->first = h->next;
		talloc_free(h);
	}
	pthread_cond_destroy(&g->news);
	talloc_free(g);
}

/* "EVENT DETAIL, ..." with the events' numbers. */
static const char *remembered(const struct guest *g)
{
	char *text = talloc_strdup(g, "");
	for (const struct happening *h = g->first; h; h = h->next)
		text = talloc_asprintf_append(text, "%s%d %s", h == g->first ? "" : ", ",
					      (int)h->event, h->detail);
	return text;
}

static const char *expected(const struct guest *g, const enum vmm_event *events,
			    const char *const *details, size_t n)
{
	char *text = talloc_strdup(g, "");
	for (size_t i = 0; i < n; i++)
		text = talloc_asprintf_append(text, "%s%d %s", i ? ", " : "", (int)events[i],
					      details[i]);
	return text;
}

static void test_the_last_word(void)
{
	struct guest *g = guest_new();
	static const struct {
		enum vmm_event event;
		const char *detail;
	} told[] = {
		{ VMM_RESUMED, "" },	{ VMM_AGENT, "open" },	 { VMM_NOSPACE, "disk-0" },
		{ VMM_STOPPED, "" },	{ VMM_AGENT, "" },	 { VMM_UNPLUGGED, "nic-1" },
		{ VMM_RESUMED, "" },	{ VMM_NOSPACE, "disk-1" }, { VMM_NOSPACE, "disk-0" },
		{ VMM_UNPLUGGED, "nic-1" },
	};
	static const enum vmm_event events[] = { VMM_AGENT, VMM_RESUMED, VMM_NOSPACE, VMM_NOSPACE,
						 VMM_UNPLUGGED };
	static const char *const details[] = { "", "", "disk-1", "disk-0", "nic-1" };
	for (size_t i = 0; i < COUNT(told); i++)
		keeper_hears(g, told[i].event, told[i].detail);
	CHECK(streq(remembered(g), expected(g, events, details, COUNT(events))));
	CHECK(g->happenings == COUNT(events) && !g->ended && !g->deaf);
	guest_free(g);
}

static void test_a_bound(void)
{
	enum { TOLD = 100000, MOST = GUEST_EVENTS_LIMIT + 1 };
	struct guest *g = guest_new();
	char detail[32];
	for (int i = 0; i < TOLD; i++) {
		snprintf(detail, sizeof detail, "disk-%d", i);
		keeper_hears(g, i % 2 ? VMM_IOERROR : VMM_UNPLUGGED, detail);
		keeper_hears(g, i % 2 ? VMM_STOPPED : VMM_RESUMED, "");
	}
	CHECK(g->happenings <= MOST && g->deaf);
	keeper_hears(g, VMM_CRASHED, "");
	keeper_hears(g, VMM_EXITED, "crash");
	CHECK(g->ended && g->happenings <= MOST + 2);
	const char *all = remembered(g);
	CHECK(strstr(all, talloc_asprintf(g, "%d , %d crash", (int)VMM_CRASHED, (int)VMM_EXITED)));
	guest_free(g);
}

/* A guest that resets itself all the time is told of so often at once, and then now and then. */
static void test_words(void)
{
	struct guest *g = guest_new();
	int told = 0;
	for (int i = 0; i < 1000; i++)
		told += !keeper_is_one_too_many(g, VMM_REBOOTED);
	CHECK(told == GUEST_WORDS_LIMIT);
	CHECK(!keeper_is_one_too_many(g, VMM_STOPPED)); /* that is in its row, and told nobody */
	guest_free(g);
}

int main(void)
{
	test_the_last_word();
	test_a_bound();
	test_words();
	return 0;
}
