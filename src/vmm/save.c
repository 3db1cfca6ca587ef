// SPDX-License-Identifier: Apache-2.0
#include "vmm/save.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/disks.h"
#include "vmm/pages.h"
#include "vmm/process.h"
#include "vmm/qmp.h"

enum {
	LOOK_MS = 1, /* in the pause */
	SLOWLY_MS = 20,
	STOP_TAKES_MS = 6,
	LATE_STOPS = 3,
	COLLAPSED_MIB = 64,
	CHANNELS = 4, /* that load an image at once */
	LEFT_MS = 50, /* that a pre-copy may take for what is left, while the guest stands */
};
#define UNLIMITED ((json_int_t)1 << 50) /* bytes a second */

/* ---- a migration ---- */

/* Those that are used here; what is not in `on` is switched off. */
static int set_capabilities(struct task *t, struct qmp *q, const struct list *on)
{
	static const char *const known[] = { "events", "background-snapshot", "mapped-ram",
					     "multifd", "pause-before-switchover" };
	json_t *all = json_array();
	for (size_t i = 0; i < COUNT(known); i++)
		json_array_append_new(all, json_pack("{s:s, s:b}", "capability", known[i], "state",
						     list_has(on, known[i])));
	return qmp_do(t, q, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", all));
}

static int capabilities(struct task *t, struct qmp *q, const char *words)
{
	struct list on = list_split(t, words, ' ');
	return set_capabilities(t, q, &on);
}

/* QEMU sends at most 128 MiB/s unless it is told otherwise.  And it comes to the end of a pre-copy
 * when it believes to need 300 ms for what is left: the faster it may send, the more would that be. */
static int lift_limits(struct task *t, struct qmp *q)
{
	return qmp_do(t, q, "migrate-set-parameters",
		      json_pack("{s:I, s:i}", "max-bandwidth", UNLIMITED, "downtime-limit",
				LEFT_MS));
}

struct state {
	const char *status;
	json_int_t pages; /* sent */
	const char *error;
};

static const char *word(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

static int look(struct task *t, struct qmp *q, struct state *ret)
{
	struct qmp_call c = { .command = "query-migrate",
			      .query = true,
			      .ms = delay_ms(DELAY_SAVE_ANSWER) };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *ram = json_object_get(c.ret, "ram");
	*ret = (struct state){
		.status = word(c.ret, "status"),
		.pages = json_integer_value(json_object_get(ram, "normal")) +
			 json_integer_value(json_object_get(ram, "duplicate")),
		.error = word(c.ret, "error-desc"),
	};
	return 0;
}

static bool is_any(const char *s, const char *const *of)
{
	for (; *of; of++)
		if (streq(s, *of))
			return true;
	return false;
}

/* A wait that is the longer the more memory there is. */
static int ms_for(uint64_t memory, enum delay all, enum delay each_gib)
{
	uint64_t ms = (uint64_t)delay_ms(all) + (memory >> 30) * (uint64_t)delay_ms(each_gib);
	return ms < INT_MAX ? (int)ms : INT_MAX;
}

static int ms_to_send(uint64_t memory)
{
	return ms_for(memory, DELAY_SAVE_SEND, DELAY_SAVE_SEND_GIB);
}

static const char *const over[] = { "completed", "failed", "cancelled", "", NULL };
static const char *const bad[] = { "failed", "cancelled", "", NULL };

/* Until the status is the wanted one, and pages were sent if that is wanted.  0: not in that time. */
static int await(struct task *t, struct qmp *q, const char *wanted, bool pages, int ms, int pace)
{
	for (int64_t until = clock_ms() + ms;;) {
		struct state s;
		if (look(t, q, &s) < 0)
			return -1;
		if (streq(s.status, wanted) && (!pages || s.pages > 0))
			return 1;
		if (is_any(s.status, bad) || (is_any(s.status, over) && !pages))
			return fail(t, INTERNAL_ERROR,
				    str(t, "QEMU could not save or load the memory: %s",
					*s.error ? s.error : s.status));
		/* One so small that it is over already was protected before. */
		if (pages && streq(s.status, "completed"))
			return 1;
		if (clock_ms() > until)
			return 0;
		if (task_wait(t, -1, 0, pace) < 0)
			return -1;
	}
}

static int await_surely(struct task *t, struct qmp *q, const char *wanted, bool pages, int ms,
			int pace)
{
	int done = await(t, q, wanted, pages, ms, pace);
	if (done != 0)
		return done < 0 ? -1 : 0;
	return fail(t, INTERNAL_ERROR,
		    str(t, "QEMU's migration is not '%s' after %d s", wanted, ms / 1000));
}

/* To a fresh socket. */
static int migrate(struct task *t, struct qmp *q, struct vmm_save *v)
{
	FD_SCOPE int to = v->open(t, v->arg);
	struct qmp_call give = { .command = "getfd",
				 .arguments = json_pack("{s:s}", "fdname", "save"),
				 .fd = to };
	if (to < 0) {
		json_decref(give.arguments);
		return -1;
	}
	if (qmp_call(t, q, &give) < 0)
		return -1;
	return qmp_do(t, q, "migrate", json_pack("{s:s}", "uri", "fd:save"));
}

/* One that is cancelled while QEMU looks at all pages ends when it has. */
static int await_end(struct task *t, struct qmp *q, const struct saving *saving)
{
	struct state s;
	int ms = ms_for(saving->memory, DELAY_SAVE_END, DELAY_SAVE_PROTECT_GIB);
	for (int64_t until = clock_ms() + ms; clock_ms() < until;) {
		if (look(t, q, &s) < 0)
			return -1;
		if (is_any(s.status, over))
			return 0;
		if (task_wait(t, -1, 0, SLOWLY_MS) < 0)
			return -1;
	}
	return fail(t, INTERNAL_ERROR, "QEMU does not end a migration that was cancelled");
}

/* A background snapshot that ends before RAM is write protected closes descriptor 0, taking it for that of
 * userfaultfd (QEMU 10.0, ram_write_tracking_stop).  The next file that is opened would get that number, which
 * file-posix.c takes for none: it would never be closed, nor its lock be gone.  So it is taken again: a
 * descriptor that comes has the lowest number there is.  When it is the daemon that ended, the next one's own
 * connection takes it. */
static int take_zero(struct task *t, struct qmp *q)
{
	FD_SCOPE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct qmp_call add = { .command = "add-fd",
				.arguments = json_pack("{s:s}", "opaque", "standard input"),
				.fd = null };
	if (qmp_call(t, q, &add) < 0)
		return -1;
	json_int_t fd = json_integer_value(json_object_get(add.ret, "fd"));
	if (fd == 0)
		return 0;
	return qmp_do(t, q, "remove-fd",
		      json_pack("{s:O, s:I}", "fdset-id", json_object_get(add.ret, "fdset-id"),
				"fd", fd));
}

/* ---- when the main loop hangs ---- */

static void pass_over(void *arg, const char *name, const json_t *data)
{
	(void)arg, (void)name, (void)data;
}

static void pass_over_end(void *arg, int closing)
{
	(void)arg, (void)closing;
}

static void close_oob(struct saving *s)
{
	if (s->oob)
		qmp_close(s->oob);
	s->oob = NULL;
}

static int open_oob(struct task *t, struct saving *s, const struct qmp *q, const char *path)
{
	const struct qmp_handler nobody = { pass_over, pass_over_end, NULL, qmp_vm(q) };
	close_oob(s);
	int fd = unix_connect(t, path);
	s->oob = fd < 0 ? NULL : qmp_open(t, fd, delay_ms(DELAY_SAVE_OOB), true, nobody);
	return s->oob ? 0 : -1;
}

/* No answer, though there is a QEMU: its socket is cut, and it answers. */
static int yank(struct task *t, struct saving *s)
{
	struct qmp_call c = { .command = "yank", .oob = true, .ms = delay_ms(DELAY_SAVE_OOB) };
	if (!s->oob)
		return -1;
	log_line(t, "migration cut since QEMU does not answer error=\"%s\"", task_error(t));
	task_forgive(t);
	c.arguments = json_pack("{s:[{s:s}]}", "instances", "type", "migration");
	return qmp_call(t, s->oob, &c);
}

/* Whatever it is at, it ends, or has. */
static int cancel(struct task *t, struct qmp *q, struct saving *saving)
{
	struct state s;
	if (look(t, q, &s) < 0 && (yank(t, saving) < 0 || look(t, q, &s) < 0))
		return -1;
	if (!is_any(s.status, over) &&
	    (qmp_do(t, q, "migrate_cancel", NULL) < 0 || await_end(t, q, saving) < 0))
		return -1;
	return streq(s.status, "completed") ? 0 : take_zero(t, q);
}

/* ---- the instant ---- */

static int64_t now_us(void)
{
	return (int64_t)(clock_exact_ms() * 1000);
}

struct taking {
	struct qmp *q;
	struct saving *saving;
	struct vmm_save *v;
	double begin; /* of the pause */
	int64_t look_begin_us;
	bool stopped;
};

static int stop(struct task *t, struct taking *k)
{
	if (!k->v->running || k->stopped)
		return 0;
	k->begin = clock_exact_ms();
	k->stopped = true;
	if (qmp_do(t, k->q, "stop", NULL) < 0)
		return -1;
	crash_point_standing();
	return 0;
}

static int go_on(struct task *t, struct taking *k)
{
	if (k->stopped)
		crash_point_standing();
	if (!k->stopped || k->v->keep_stopped)
		return 0;
	if (qmp_do(t, k->q, "cont", NULL) < 0)
		return -1;
	k->v->pause_ms += clock_exact_ms() - k->begin;
	k->stopped = false;
	return 0;
}

static int transaction(struct task *t, struct taking *k)
{
	if (k->v->n && disks_instant(t, k->q, k->v->n, k->v->switches) < 0)
		return -1;
	if (k->stopped)
		crash_point_standing();
	return 0;
}

/* A migration that is completed leaves disks that QEMU lets nobody write until its guest goes on: it would abort when
 * layers are merged in one that stands still (QEMU 10.0, block.c, bdrv_inactivate_all). */
static int disks_back(struct task *t, struct qmp *q)
{
	return qmp_do(t, q, "blockdev-set-active", json_pack("{s:b}", "active", true));
}

/* From a migration that is completed. */
static int come_back(struct task *t, struct taking *k)
{
	return k->v->running ? go_on(t, k) : disks_back(t, k->q);
}

/* ---- the ways ---- */

/* NULL: no answer. */
static const char *run_state(struct task *t, struct qmp *q)
{
	struct qmp_call c = { .command = "query-status", .query = true };
	return qmp_call(t, q, &c) < 0 ? NULL : word(c.ret, "status");
}

/* QEMU looks at all pages, and then protects them. */
static int begin_look(struct task *t, struct taking *k)
{
	k->look_begin_us = now_us();
	atomic_store(&k->saving->active_us, 0);
	return migrate(t, k->q, k->v);
}

/* How long the look took.  Shorter ones are believed at once. */
static void learn(const struct taking *k)
{
	struct saving *s = k->saving;
	int64_t took = atomic_load(&s->active_us) - k->look_begin_us, most = s->look_us * 5 / 4;
	if (took > 0)
		s->look_us = s->look_us && took > most ? most : took;
}

static int await_protected(struct task *t, struct taking *k)
{
	int ms = ms_for(k->saving->memory, DELAY_SAVE_PROTECT, DELAY_SAVE_PROTECT_GIB);
	return await_surely(t, k->q, "active", true, ms, LOOK_MS);
}

/* So long that the guest's stop is answered when half of the look is over: looks differ, and one that was
 * shorter than that costs a second stop. */
static int let_it_look(struct task *t, const struct saving *s)
{
	int ms = (int)(s->look_us / 2000) - STOP_TAKES_MS;
	return ms > 0 && task_wait(t, -1, 0, ms) < 0 ? -1 : 0;
}

/* What comes of it is thrown away. */
static int rehearse(struct task *t, struct taking *k)
{
	return begin_look(t, k) < 0 || await_protected(t, k) < 0 ? -1 : cancel(t, k->q, k->saving);
}

/* The first look of all tells nothing of how long others take. */
static int prepare_look(struct task *t, struct taking *k)
{
	bool first = !k->saving->look_us;
	if ((first && rehearse(t, k) < 0) || rehearse(t, k) < 0)
		return -1;
	if (first)
		learn(k);
	return 0;
}

/* With the stop behind the migrate; lost: the stop came too late, and nothing has happened. */
static int late_stop(struct task *t, struct taking *k, bool *ret_lost)
{
	if (begin_look(t, k) < 0 || let_it_look(t, k->saving) < 0 || stop(t, k) < 0)
		return -1;
	*ret_lost = atomic_load(&k->saving->active_us) != 0;
	if (!*ret_lost && (transaction(t, k) < 0 || await_protected(t, k) < 0))
		return -1;
	learn(k);
	return 0;
}

/* QEMU's own stop waits for all processors to stand still: one that goes on before QEMU has seen it is awaited for
 * ever (QEMU 10.0, pause_all_vcpus). */
static int make_up_for(struct task *t, struct taking *k)
{
	log_line(t, "the guest's stop came too late, and is done again look_us=%lld",
		 (long long)k->saving->look_us);
	k->saving->look_us /= 2;
	if (await_protected(t, k) < 0 || go_on(t, k) < 0)
		return -1;
	return cancel(t, k->q, k->saving);
}

static int early_stop(struct task *t, struct taking *k)
{
	if (stop(t, k) < 0 || transaction(t, k) < 0 || migrate(t, k->q, k->v) < 0)
		return -1;
	return await_protected(t, k);
}

static int stop_in_time(struct task *t, struct taking *k)
{
	bool lost;
	for (int try = 0; try < LATE_STOPS; try++) {
		if (late_stop(t, k, &lost) < 0)
			return -1;
		if (!lost)
			return 0;
		if (make_up_for(t, k) < 0)
			return -1;
	}
	return early_stop(t, k);
}

/* Of a guest that stands still no moment is too late. */
static int background(struct task *t, struct taking *k)
{
	return (k->v->running ? stop_in_time : early_stop)(t, k) < 0 ? -1 : go_on(t, k);
}

static int precopy(struct task *t, struct taking *k)
{
	uint64_t memory = k->saving->memory;
	int patience = ms_for(memory, DELAY_SAVE_PRECOPY, DELAY_SAVE_PRECOPY_GIB);
	if (migrate(t, k->q, k->v) < 0)
		return -1;
	int there = await(t, k->q, "pre-switchover", false, patience, LOOK_MS);
	if (there < 0 || (there == 0 && stop(t, k) < 0) ||
	    (there == 0 &&
	     await_surely(t, k->q, "pre-switchover", false, ms_to_send(memory), LOOK_MS) < 0))
		return -1;
	if (!k->stopped)
		k->begin = clock_exact_ms(); /* QEMU did it, a moment before */
	k->stopped = k->v->running;
	if (transaction(t, k) < 0 ||
	    qmp_do(t, k->q, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover")) <
		    0 ||
	    await_surely(t, k->q, "completed", false, ms_to_send(memory), LOOK_MS) < 0)
		return -1;
	return come_back(t, k);
}

/* After a migration a guest that stands still cannot be migrated again.  One that has never run may be reset. */
static int stand_again(struct task *t, struct taking *k)
{
	if (!k->saving->fresh)
		return 0;
	if (qmp_do(t, k->q, "system_reset", NULL) < 0)
		return -1;
	for (int64_t until = clock_ms() + delay_ms(DELAY_SAVE_END); clock_ms() < until;) {
		const char *state = run_state(t, k->q);
		if (!state || streq(state, "prelaunch"))
			return state ? 0 : -1;
		if (task_wait(t, -1, 0, SLOWLY_MS) < 0)
			return -1;
	}
	return fail(t, INTERNAL_ERROR, "QEMU does not reset a guest that has never run");
}

static int stopped(struct task *t, struct taking *k)
{
	if (stop(t, k) < 0 || transaction(t, k) < 0 || migrate(t, k->q, k->v) < 0 ||
	    await_surely(t, k->q, "completed", false, ms_to_send(k->saving->memory), SLOWLY_MS) <
		    0 ||
	    come_back(t, k) < 0)
		return -1;
	return stand_again(t, k);
}

static const struct way {
	const char *method, *capabilities;
	int (*rehearse)(struct task *, struct taking *); /* for a guest that runs; NULL: none */
	int (*run)(struct task *, struct taking *);
	bool stands; /* for a guest that shall not go on, too */
} ways[] = {
	{ "background-snapshot", "events background-snapshot", prepare_look, background, false },
	{ "pre-copy", "events pause-before-switchover", NULL, precopy, false },
	{ "stop-and-copy", "events", NULL, stopped, true },
};

static int look_at_memory(struct task *t, struct qmp *q, struct saving *s)
{
	struct qmp_call c = { .command = "query-memory-size-summary", .query = true };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	json_int_t bytes = json_integer_value(json_object_get(c.ret, "base-memory"));
	s->memory = bytes > 0 ? (uint64_t)bytes : 0;
	return 0;
}

/* A guest that has never run makes QEMU 10.0 abort when a background snapshot stops it; one that stood still while
 * it was saved in another way is not saved again. */
static int look_at_guest(struct task *t, struct qmp *q, struct saving *s)
{
	const char *state = run_state(t, q);
	if (!state)
		return -1;
	if (streq(state, "postmigrate"))
		return fail(t, INTERNAL_ERROR,
			    "QEMU does not save the memory of a paused guest twice: let it go on, "
			    "and save it then");
	s->fresh = streq(state, "prelaunch");
	return look_at_memory(t, q, s);
}

/* The first that QEMU takes: it looks at the kernel, and at what the guest's memory is made of. */
static const struct way *choose(struct task *t, struct qmp *q, struct saving *s,
				const struct vmm_save *v)
{
	if (look_at_guest(t, q, s) < 0)
		return NULL;
	for (size_t i = 0; i < COUNT(ways); i++) {
		struct task *try = task_new(t, t->name);
		if ((v->keep_stopped || s->fresh) && !ways[i].stands)
			continue;
		if (capabilities(try, q, ways[i].capabilities) == 0)
			return lift_limits(t, q) < 0 ? NULL : &ways[i];
		log_line(t, "memory is not saved so method=%s because=\"%s\"", ways[i].method,
			 task_error(try));
		if (i == COUNT(ways) - 1)
			task_fail_params(t, try->code, try->params);
	}
	return NULL;
}

/* After a failure the guest is what it was before. */
static int give_up(struct task *t, struct taking *k)
{
	struct task *after = task_new(t, t->name);
	after->undoing = 1;
	cancel(after, k->q, k->saving);
	task_forgive(after);
	k->v->keep_stopped = false;
	if (go_on(after, k) < 0)
		log_line(t, "the guest does not go on error=\"%s\"", task_error(after));
	close_oob(k->saving);
	return -1;
}

int save_rehearse(struct task *t, struct qmp *q, struct saving *s, const struct process *p,
		  const char *oob_path, struct vmm_save *v)
{
	struct taking k = { .q = q, .saving = s, .v = v };
	/* A QEMU that could not give the disks back is asked before anything is done. */
	if (!v->running && disks_back(t, q) < 0)
		return -1;
	s->way = choose(t, q, s, v);
	if (!s->way || open_oob(t, s, q, oob_path) < 0)
		return -1;
	v->method = s->way->method;
	if (!v->keep_stopped)
		pages_collapse(t, p->pid, p->pidfd, (uint64_t)COLLAPSED_MIB << 20);
	if (task_check(t) < 0 || (v->running && s->way->rehearse && s->way->rehearse(t, &k) < 0))
		return give_up(t, &k);
	v->rehearsed = true;
	return 0;
}

int save_begin(struct task *t, struct qmp *q, struct saving *s, const struct process *p,
	       const char *oob_path, struct vmm_save *v)
{
	struct taking k = { .q = q, .saving = s, .v = v };
	if (!v->rehearsed && save_rehearse(t, q, s, p, oob_path, v) < 0)
		return -1;
	if (task_check(t) < 0 || s->way->run(t, &k) < 0)
		return give_up(t, &k);
	log_line(t, "memory is being sent method=%s pause_ms=%.1f look_us=%lld", v->method,
		 v->pause_ms, (long long)s->look_us);
	return 0;
}

int save_end(struct task *t, struct qmp *q, struct saving *s, bool cancelled)
{
	int ended = cancelled ? cancel(t, q, s)
			      : await_surely(t, q, "completed", false, delay_ms(DELAY_SAVE_END),
					     SLOWLY_MS);
	close_oob(s);
	return ended < 0 ? -1 : capabilities(t, q, "");
}

/* Whether it goes on is not known here. */
int save_settle(struct task *t, struct qmp *q, struct saving *s)
{
	if (look_at_memory(t, q, s) < 0 || cancel(t, q, s) < 0)
		return -1;
	const char *state = run_state(t, q);
	return !state ? -1 : streq(state, "postmigrate") ? disks_back(t, q) : 0;
}

void save_forget(struct saving *s)
{
	close_oob(s);
}

/* ---- back ---- */

int save_load(struct task *t, struct qmp *q, const char *file, uint64_t offset, uint64_t memory)
{
	if (capabilities(t, q, "events mapped-ram multifd") < 0 ||
	    qmp_do(t, q, "migrate-set-parameters",
		   json_pack("{s:i}", "multifd-channels", CHANNELS)) < 0 ||
	    qmp_do(t, q, "migrate-incoming",
		   json_pack("{s:s}", "uri",
			     str(t, "file:%s,offset=%llu", file, (unsigned long long)offset))) <
		    0 ||
	    await_surely(t, q, "completed", false, ms_to_send(memory), SLOWLY_MS) < 0)
		return -1;
	return capabilities(t, q, "");
}

void save_on_event(struct saving *s, const json_t *data)
{
	if (streq(word(data, "status"), "active"))
		atomic_store(&s->active_us, now_us());
}
