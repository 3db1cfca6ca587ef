// SPDX-License-Identifier: Apache-2.0
/* agents.c -- asking is left to a few threads.  Each takes the guest whose turn it is and has a conversation
 * with its agent that lasts so long at most as it may (delays.def); so agents that do not answer take turns like all others, and keep
 * nobody waiting but each other.  Whoever does not answer is asked less and less often.
 *
 * The ports are taken one conversation at a time.  An asker is known by its task, and whoever wants the
 * port for something else interrupts it. */
#include "api/agents.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/settings.h"
#include "api/vm.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/freeze.h"

enum {
	ASKERS = 4,
	CLOCK_OFF_MS = 2000, /* a clock that is right may be off by this */
	RARER = 3, /* in vain so often: asked at an eighth of the usual rate, and not less */
};

/* A guest that is asked. */
struct watched {
	struct watched *next;
	const char *ref;
	int64_t due;   /* on clock_ms() */
	int64_t asked; /* when, the last time */
	int vain;      /* times, one after the other */
	bool busy;     /* a thread has it */
	bool gone;     /* off the list; its thread frees it */
};

/* A port that is taken. */
struct port {
	struct port *next;
	const char *ref;
	struct task *asker; /* gives way; NULL for others */
};

static struct {
	pthread_mutex_t lock; /* nothing else is locked under it */
	pthread_cond_t changed;
	bool closing;
	struct watched *watched;
	struct port *ports;
	pthread_t askers[ASKERS];
	int nr;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* ---- the ports ---- */

static struct port *port_of(const char *ref)
{
	struct port *p = all.ports;
	while (p && !streq(p->ref, ref))
		p = p->next;
	return p;
}

static void interrupt_asker(const struct port *p)
{
	if (p && p->asker)
		task_interrupt(p->asker);
}

static int port_free(struct port *gone)
{
	pthread_mutex_lock(&all.lock);
	struct port **at = &all.ports;
	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	return 0;
}

/* Lock held: takes the port if nobody has it; asks an asker to go. */
static bool port_try(struct port *mine)
{
	struct port *other = port_of(mine->ref);
	if (!mine->asker)
		interrupt_asker(other);
	if (other)
		return false;
	mine->next = all.ports;
	all.ports = mine;
	return true;
}

/* NULL: failed. */
static struct port *port_take(struct task *t, const char *ref, int ms, bool asks)
{
	int64_t until = clock_ms() + ms;
	struct port *p = talloc_zero(t, struct port);
	p->ref = talloc_strdup(p, ref);
	p->asker = asks ? t : NULL;
	for (;;) {
		pthread_mutex_lock(&all.lock);
		bool taken = port_try(p);
		int64_t now = clock_ms(), look = now + delay_ms(DELAY_AGENT_TURN_LOOK);
		if (!taken && now < until)
			clock_wait(&all.changed, &all.lock, until < look ? until : look);
		pthread_mutex_unlock(&all.lock);
		if (taken) {
			talloc_set_destructor(p, port_free);
			return p;
		}
		if (task_check(t) < 0)
			return NULL;
		if (now >= until)
			return fail_ptr(t, OTHER_OPERATION_IN_PROGRESS, "VM", ref, "guest-agent",
					NULL_REF);
	}
}

static struct agent *take(struct task *t, const char *ref, int ms, bool asks)
{
	struct port *p = port_take(t, ref, ms, asks);
	if (!p)
		return NULL;
	int fd;
	if (guest_connect(t, ref, settings.vmm->agent, &fd) < 0) {
		talloc_free(p);
		return NULL;
	}
	struct agent *a = agent_new(t, fd);
	talloc_steal(a, p); /* the connection ends first */
	return a;
}

struct agent *agent_take(struct task *t, const char *ref, int ms)
{
	return take(t, ref, ms, false);
}

/* ---- shutting down ---- */

static bool is_live(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	struct VM_guest_metrics_row *m =
		vm ? db_seek(t, VM_guest_metrics, vm->guest_metrics) : NULL;
	return m && m->live;
}

bool agent_shut_down(struct task *t, const char *ref)
{
	if (!is_live(t, ref))
		return false;
	struct agent_call c = { .command = "guest-shutdown",
				.ms = delay_ms(DELAY_AGENT_SHUT_DOWN),
				.mute = true };
	struct agent *a = agent_take(t, ref, delay_ms(DELAY_AGENT_SHUT_DOWN));
	if (a)
		c.arguments = json_pack("{s:s}", "mode", "powerdown");
	bool asked = a && agent_call(t, a, &c) == 0;
	talloc_free(a);
	if (!asked)
		log_line(t, "guest agent not asked to shut down vm=%s error=\"%s\"", ref,
			 task_error(t));
	task_forgive(t);
	return asked;
}

/* ---- the clock ---- */

static int64_t real_ms(void)
{
	return clock_day_ns() / 1000000;
}

/* Where hwclock is missing or fails, an agent may have set the time, and say that it failed. */
static int set_clock(struct task *t, struct agent *a)
{
	struct agent_call set = { .command = "guest-set-time", .ms = delay_ms(DELAY_AGENT_CLOCK) };
	set.arguments = json_pack("{s:I}", "time", (json_int_t)real_ms() * 1000000);
	const char *said = agent_call(t, a, &set) < 0 ? task_error(t) : "nothing";
	task_forgive(t);
	struct agent_call get = { .command = "guest-get-time", .ms = delay_ms(DELAY_AGENT_CLOCK) };
	if (agent_call(t, a, &get) < 0)
		return -1;
	int64_t off = real_ms() - json_integer_value(get.ret) / 1000000;
	if (off > -CLOCK_OFF_MS && off < CLOCK_OFF_MS)
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t, "the clock is off by %lld ms; to have it set said %s", (long long)off,
			said));
}

const char *agent_set_clock(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm || !db_seek(t, VM_guest_metrics, vm->guest_metrics))
		return "its clock goes on from where it stood, for it has no guest agent";
	struct agent *a = agent_take(t, ref, delay_ms(DELAY_AGENT_CLOCK));
	int set = a ? set_clock(t, a) : -1;
	talloc_free(a);
	if (set == 0)
		return "its clock was set by the guest agent";
	log_line(t, "clock not set vm=%s error=\"%s\"", vm->uuid, task_error(t));
	task_forgive(t);
	return "its clock goes on from where it stood, for its guest agent did not set it";
}

/* ---- a conversation ---- */

static const json_t *ask_for(struct task *t, struct agent *a, const char *command)
{
	struct agent_call c = { .command = command, .ms = delay_ms(DELAY_AGENT_ANSWER) };
	return agent_call(t, a, &c) < 0 ? NULL : c.ret;
}

/* The same where an agent need not know the answer. */
static const json_t *wonder(struct task *t, struct agent *a, const char *command)
{
	const json_t *ret = ask_for(t, a, command);
	task_forgive(t);
	return ret;
}

static bool is_frozen(struct task *t, struct agent *a)
{
	const char *is = freeze_status(t, a, delay_ms(DELAY_AGENT_ANSWER));
	task_forgive(t);
	return is && streq(is, "frozen");
}

/* One who is frozen was left so by somebody, for nobody else has the port.  It obeys little until it is thawed. */
static const json_t *ask_info(struct task *t, const char *ref, struct agent *a)
{
	const json_t *info = ask_for(t, a, "guest-info");
	if (!info || !report_may_be_frozen(info) || !is_frozen(t, a))
		return info;
	log_line(t, "guest found frozen vm=%s", ref);
	return freeze_release(t, a) < 0 ? NULL : ask_for(t, a, "guest-info");
}

static struct map vifs_of(struct task *t, const char *ref)
{
	struct map vifs = { 0 };
	DB_EACH (t, VIF, vif, "VM", ref)
		map_set(t, &vifs, vif->MAC, vif->device);
	return vifs;
}

static int ask(struct task *t, const char *ref, struct guest_report *ret)
{
	struct agent *a = take(t, ref, 0, true);
	const json_t *info = a ? ask_info(t, ref, a) : NULL;
	if (info) {
		struct map vifs = vifs_of(t, ref);
		report_info(t, ret, info);
		report_os(t, ret, wonder(t, a, "guest-get-osinfo"));
		report_networks(t, ret, wonder(t, a, "guest-network-get-interfaces"), &vifs);
	}
	talloc_free(a);
	return info && !atomic_load(&t->cancelled) ? 0 : -1;
}

static bool is_gone(struct watched *w)
{
	pthread_mutex_lock(&all.lock);
	bool gone = w->gone;
	pthread_mutex_unlock(&all.lock);
	return gone;
}

/* NULL: nobody answers.  Whoever forgets the guest writes its row after that, in a transaction of his own;
 * so what was heard before is not recorded after it. */
static int record(struct task *t, struct watched *w, const struct guest_report *r)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, w->ref);
	if (!vm_has_process(vm) || is_gone(w))
		return 0;
	int written = r ? guest_metrics_heard(t, vm, r) : guest_metrics_silent(t, vm);
	return written < 0 ? -1 : db_commit(t);
}

enum outcome { HEARD, IN_VAIN, GAVE_WAY };

/* vain: how often it was so far.  Once may be an accident. */
static enum outcome visit(struct task *t, struct watched *w, int vain)
{
	struct guest_report r = { 0 };
	bool heard = ask(t, w->ref, &r) == 0;
	if (!heard && (atomic_load(&t->cancelled) || t->code == OTHER_OPERATION_IN_PROGRESS))
		return GAVE_WAY;
	if (!heard && vain == 1)
		log_line(t, "guest agent silent vm=%s error=\"%s\"", w->ref, task_error(t));
	task_forgive(t);
	if (heard || vain > 0)
		if (record(t, w, heard ? &r : NULL) < 0)
			log_line(t, "guest agent not recorded vm=%s error=\"%s\"", w->ref,
				 task_error(t));
	return heard ? HEARD : IN_VAIN;
}

/* ---- whose turn it is; lock held ---- */

static struct watched **place_of(const char *ref)
{
	struct watched **at = &all.watched;
	while (*at && !streq((*at)->ref, ref))
		at = &(*at)->next;
	return at;
}

/* Those that were started together are not asked together. */
static int64_t jittered(int64_t ms)
{
	return ms * 3 / 4 + random() % (ms / 2 + 1);
}

static int64_t next_time(const struct watched *w, enum outcome outcome)
{
	int64_t every = (int64_t)settings.agent_interval_s * delay_ms(DELAY_SETTING_SECOND);
	int64_t now = clock_ms();
	if (outcome == GAVE_WAY || w->vain == 1)
		return now + delay_ms(DELAY_AGENT_AGAIN);
	if (!every)
		return INT64_MAX;
	int rarer = w->vain > 1 ? w->vain - 1 : 0;
	return now + jittered(every << (rarer < RARER ? rarer : RARER));
}

/* The guest whose turn it is, or when the next one's will be. */
static struct watched *first_due(int64_t now, int64_t *ret_next)
{
	struct watched *first = NULL;
	*ret_next = now + delay_ms(DELAY_AGENT_IDLE);
	for (struct watched *w = all.watched; w; w = w->next)
		if (!w->busy && w->due < *ret_next) {
			first = w;
			*ret_next = w->due;
		}
	return first && first->due <= now ? first : NULL;
}

/* ---- the threads ---- */

static struct watched *next_turn(int *ret_vain)
{
	struct watched *w = NULL;
	int64_t next;
	pthread_mutex_lock(&all.lock);
	while (!all.closing && !(w = first_due(clock_ms(), &next)))
		clock_wait(&all.changed, &all.lock, next);
	if (w) {
		w->busy = true;
		w->asked = clock_ms();
		*ret_vain = w->vain;
	}
	pthread_mutex_unlock(&all.lock);
	return w;
}

static void end_turn(struct watched *w, enum outcome outcome)
{
	pthread_mutex_lock(&all.lock);
	w->busy = false;
	if (outcome != GAVE_WAY)
		w->vain = outcome == HEARD ? 0 : w->vain + 1;
	w->due = next_time(w, outcome);
	if (w->gone)
		talloc_free(w);
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

static void *ask_in_turn(void *arg)
{
	(void)arg;
	int vain;
	for (struct watched *w; (w = next_turn(&vain)) != NULL;) {
		struct task *t = task_new(NULL, "agent");
		t->cancellable = true;
		t->deadline_ms = clock_ms() + delay_ms(DELAY_AGENT_ASK);
		enum outcome outcome = visit(t, w, vain);
		talloc_free(t);
		end_turn(w, outcome);
	}
	return NULL;
}

void agents_watch(const char *ref)
{
	int64_t now = clock_ms();
	pthread_mutex_lock(&all.lock);
	struct watched **at = place_of(ref), *w = *at;
	if (!w) {
		w = *at = talloc_zero(NULL, struct watched);
		w->ref = talloc_strdup(w, ref);
		w->asked = now - delay_ms(DELAY_AGENT_AGAIN);
	}
	w->vain = 0;
	int64_t again = w->asked + delay_ms(DELAY_AGENT_AGAIN);
	w->due = again > now ? again : now;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

void agents_forget(const char *ref)
{
	pthread_mutex_lock(&all.lock);
	struct watched **at = place_of(ref), *w = *at;
	if (w) {
		*at = w->next;
		w->gone = true;
		interrupt_asker(port_of(ref));
		if (!w->busy)
			talloc_free(w);
	}
	pthread_mutex_unlock(&all.lock);
}

int agents_open(struct task *t)
{
	all.closing = false;
	while (all.nr < ASKERS) {
		int err = pthread_create(&all.askers[all.nr], NULL, ask_in_turn, NULL);
		if (err)
			return task_fail_errno(t, err, "thread");
		all.nr++;
	}
	return 0;
}

void agents_close(void)
{
	pthread_mutex_lock(&all.lock);
	all.closing = true;
	for (struct port *p = all.ports; p; p = p->next)
		interrupt_asker(p);
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	while (all.nr > 0)
		pthread_join(all.askers[--all.nr], NULL);
}
