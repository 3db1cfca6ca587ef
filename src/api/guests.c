// SPDX-License-Identifier: Apache-2.0
/* guests.c -- who has which process: the list, those who hold a guest, how it begins and how it is ended. */
#include "api/guests.h"

#include "api/agents.h"
#include "api/coalesce.h"
#include "api/full.h"
#include "api/guest.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/vm.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

struct guests guests = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* ---- the list; lock held ---- */

static struct guest *find(const char *ref)
{
	struct guest *g = guests.first;
	while (g && !streq(g->ref, ref))
		g = g->next;
	return g;
}

/* With its keeper; NULL: there is no thread to be had. */
static struct guest *add(const char *ref, enum guest_state state)
{
	struct guest *g = talloc_zero(NULL, struct guest);
	g->ref = talloc_strdup(g, ref);
	g->state = state;
	g->since_ms = clock_ms();
	pthread_cond_init(&g->news, NULL);
	if (keeper_begin(g)) {
		talloc_free(g);
		return NULL;
	}
	g->next = guests.first;
	guests.first = g;
	return g;
}

static bool is_keeper(const struct guest *g)
{
	return pthread_equal(g->keeper, pthread_self());
}

static bool is_leaving(const struct guest *g)
{
	return g->claimed || g->ended || g->over;
}

/* A guest's keeper has it before others do. */
static bool is_usable(const struct guest *g)
{
	return g->vmm && (g->state == GUEST_UP || is_keeper(g)) && !is_leaving(g);
}

/* There is a process, of which nobody knows more yet. */
static bool is_silent(const struct guest *g)
{
	return (g->state == GUEST_ADOPTING || g->state == GUEST_UNHEARD) && !is_leaving(g);
}

/* ---- holding one ---- */

struct hold {
	struct guest *guest;
};

static int hold_free(struct hold *h)
{
	pthread_mutex_lock(&guests.lock);
	h->guest->users--;
	guest_changed(h->guest);
	pthread_mutex_unlock(&guests.lock);
	return 0;
}

static struct vmm *take(const void *ctx, struct guest *g)
{
	struct hold *h = talloc(ctx, struct hold);
	h->guest = g;
	g->users++;
	talloc_set_destructor(h, hold_free);
	return g->vmm;
}

struct vmm *guest_get(const void *hold, const char *ref)
{
	pthread_mutex_lock(&guests.lock);
	struct guest *g = find(ref);
	struct vmm *vmm = g && is_usable(g) ? take(hold, g) : NULL;
	pthread_mutex_unlock(&guests.lock);
	return vmm;
}

/* Is it being asked for the first time?  Waits a moment whether it answers. */
static bool is_being_met(const char *ref)
{
	pthread_mutex_lock(&guests.lock);
	struct guest *g = find(ref);
	bool asked = g && g->state == GUEST_ADOPTING && !is_keeper(g);
	if (asked)
		clock_wait(&guests.changed, &guests.lock, clock_ms() + delay_ms(DELAY_SETTLE_LOOK));
	pthread_mutex_unlock(&guests.lock);
	return asked;
}

int guest_await(struct task *t, const char *ref)
{
	int64_t until = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	while (is_being_met(ref) && clock_ms() < until)
		if (task_check(t) < 0)
			return -1;
	return 0;
}

int guest_find(struct task *t, const void *hold, const char *ref, struct vmm **ret)
{
	if (guest_await(t, ref) < 0)
		return -1;
	pthread_mutex_lock(&guests.lock);
	struct guest *g = find(ref);
	struct vmm *vmm = g && is_usable(g) ? take(hold, g) : NULL;
	bool silent = g && !vmm && is_silent(g);
	pthread_mutex_unlock(&guests.lock);
	if (silent)
		return fail(t, OPERATION_NOT_ALLOWED,
			    "the VM's process was there when the server was started and has not "
			    "answered since; it is asked again and again, and vm-shutdown --force "
			    "ends it");
	*ret = vmm;
	return 0;
}

/* The row may still say that the VM has a process. */
static int has_none(struct task *t, const char *ref)
{
	static const char needed[] = "running, paused";
	const struct VM_row *now = db_seek(t, VM, ref);
	if (now && !vm_has_process(now))
		return bad_power_state(t, now, needed);
	return fail(t, VM_BAD_POWER_STATE, ref, needed, "halted");
}

struct vmm *guest_need(struct task *t, const void *hold, const struct VM_row *vm)
{
	struct vmm *vmm;
	if (guest_find(t, hold, vm->row.ref, &vmm) < 0)
		return NULL;
	if (!vmm)
		has_none(t, vm->row.ref);
	return vmm;
}

int guest_connect(struct task *t, const char *ref, guest_door *open, int *fd)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = vmm ? open(t, vmm, fd) : -1;
	talloc_free(hold);
	return result;
}

/* ---- looking ---- */

bool guest_alive(const char *ref)
{
	pthread_mutex_lock(&guests.lock);
	const struct guest *g = find(ref);
	bool alive = g && (is_usable(g) || is_silent(g));
	pthread_mutex_unlock(&guests.lock);
	return alive;
}

struct list guests_running(struct task *t)
{
	struct list refs = { 0 };
	pthread_mutex_lock(&guests.lock);
	for (struct guest *g = guests.first; g; g = g->next)
		if (is_usable(g))
			list_add(t, &refs, g->ref);
	pthread_mutex_unlock(&guests.lock);
	return refs;
}

bool guest_ends(const char *ref)
{
	int64_t end = clock_ms() + delay_ms(DELAY_GUEST_END);
	while (guest_alive(ref) && clock_ms() < end)
		delay_sleep(DELAY_GUEST_END_LOOK);
	return !guest_alive(ref);
}

/* ---- its folder ---- */

const char *guest_path(struct task *t, const char *uuid)
{
	return str(t, "%s/run/%s", settings.state, uuid);
}

static int make_folder(struct task *t, const struct VM_row *vm)
{
	const char *dir = guest_path(t, vm->uuid);
	if (dir_make(t, str(t, "%s/run", settings.state), 0711) < 0 || dir_make(t, dir, 0700) < 0)
		return -1;
	return settings.vmm->clear(t, vm->uuid, dir);
}

/* ---- starting ---- */

/* A place on the list, for a process that is to be made. */
struct starting {
	struct guest *guest; /* NULL: the place is given up, or a process has it */
};

/* 1: the place is ours; 0: somebody has it still, for whom we have waited a moment; -1: failed. */
static int try_to_reserve(struct task *t, const char *ref, struct guest **ret)
{
	pthread_mutex_lock(&guests.lock);
	bool taken = find(ref) != NULL;
	if (taken)
		clock_wait(&guests.changed, &guests.lock,
			   clock_ms() + delay_ms(DELAY_GUEST_END_LOOK));
	*ret = taken ? NULL : add(ref, GUEST_STARTING);
	pthread_mutex_unlock(&guests.lock);
	if (taken)
		return 0;
	return *ret ? 1 : fail(t, INTERNAL_ERROR, "no thread can be had for the VM");
}

/* The former process of the VM may still be on its way out. */
static struct guest *reserve(struct task *t, const char *ref)
{
	struct guest *g = NULL;
	int64_t end = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	while (task_check(t) == 0) {
		int reserved = try_to_reserve(t, ref, &g);
		if (reserved)
			return reserved < 0 ? NULL : g;
		if (clock_ms() > end)
			return fail_ptr(t, OPERATION_NOT_ALLOWED,
					"the process that the VM had does not end; the file pid in "
					"the VM's folder has its number");
	}
	return NULL;
}

/* vmm NULL: there is no process.  Whether somebody waits for its end. */
static bool unreserve(struct guest *g, struct vmm *vmm)
{
	pthread_mutex_lock(&guests.lock);
	bool unwanted = g->unwanted;
	g->vmm = vmm;
	g->state = GUEST_UP;
	g->over = !vmm;
	guest_changed(g);
	pthread_mutex_unlock(&guests.lock);
	return unwanted;
}

static bool is_unwanted(const struct guest *g)
{
	pthread_mutex_lock(&guests.lock);
	bool unwanted = g->unwanted;
	pthread_mutex_unlock(&guests.lock);
	return unwanted;
}

static int give_up(struct starting *s)
{
	if (s->guest)
		unreserve(s->guest, NULL);
	return 0;
}

struct starting *guest_begin(struct task *t, const void *hold, const struct VM_row *vm)
{
	struct guest *g = NULL;
	/* The row says that the VM has no process: one that is there was left behind. */
	if (guest_await(t, vm->row.ref) == 0 &&
	    (!guest_alive(vm->row.ref) || guest_stop(t, vm->row.ref) == 0))
		g = reserve(t, vm->row.ref);
	if (!g)
		return NULL;
	struct starting *s = talloc(hold, struct starting);
	s->guest = g;
	talloc_set_destructor(s, give_up);
	if (make_folder(t, vm) == 0)
		return s;
	talloc_free(s);
	return NULL;
}

int guest_start(struct task *t, struct starting *s, struct vmm_config *config)
{
	struct guest *g = s->guest;
	const char *ref = talloc_strdup(t, g->ref);
	struct vmm_listener listener = { .event = keeper_hears, .arg = g, .vm = g->ref };
	struct vmm *vmm = is_unwanted(g) ? NULL : settings.vmm->start(t, config, listener);
	s->guest = NULL;
	if (!unreserve(g, vmm))
		return vmm ? 0 : -1;
	task_forgive(t); /* it was ended on the way */
	return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", ref, "hard_shutdown", NULL_REF);
}

/* ---- ending ---- */

/* A process that has not answered since the daemon was started, or that is not yet one of a guest's, is
 * known by its folder only. */
static int kill_unheard(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	return vm ? settings.vmm->kill(t, vm->uuid, guest_path(t, vm->uuid)) : 0;
}

/* Takes the guest from those who may still ask for it; *ret is NULL when there is none, or it has ended by itself just
 * now.  False: it is not there yet.  Whoever starts it, asks it, or would start it again, is told that nobody wants it. */
static bool claim(const char *ref, struct guest **ret)
{
	pthread_mutex_lock(&guests.lock);
	struct guest *g = find(ref);
	bool is_coming = g && !is_leaving(g) && !(g->vmm && g->state == GUEST_UP);
	*ret = !g || is_coming || is_leaving(g) ? NULL : g;
	if (*ret)
		g->claimed = true;
	else if (g)
		g->unwanted = true;
	if (is_coming && g->task)
		task_interrupt(g->task);
	if (g)
		guest_changed(g);
	pthread_mutex_unlock(&guests.lock);
	return !is_coming;
}

/* A start that is under way may take long, and is not waited for: its process is ended as often as
 * there is one, until the task that starts it has noticed. */
static int claim_or_end(struct task *t, const char *ref, struct guest **ret)
{
	while (!claim(ref, ret))
		if (kill_unheard(t, ref) < 0 ||
		    task_wait(t, -1, 0, delay_ms(DELAY_GUEST_END_LOOK)) < 0)
			return -1;
	return *ret ? 0 : kill_unheard(t, ref);
}

static void unclaim(struct guest *g, bool over)
{
	pthread_mutex_lock(&guests.lock);
	g->claimed = false;
	g->over = over;
	guest_changed(g);
	pthread_mutex_unlock(&guests.lock);
}

int guest_stop(struct task *t, const char *ref)
{
	struct guest *g;
	if (claim_or_end(t, ref, &g) < 0)
		return -1;
	if (!g)
		return 0;
	coalesce_interrupt_vm(ref);
	int stopped = settings.vmm->stop(t, g->vmm);
	if (stopped == 0)
		agents_forget(ref);
	unclaim(g, stopped == 0);
	return stopped;
}

/* ---- start and end of the daemon ---- */

/* A process may run though the row says Halted: the daemon died while starting it.  It is found here, and ended when
 * the journal is replayed. */
static bool may_have_process(struct task *t, const struct VM_row *vm)
{
	bool said = vm_has_process(vm) || vm->power_state == vm_power_state_Suspended;
	return !vm->is_a_template &&
	       (said || file_exists(str(t, "%s/pid", guest_path(t, vm->uuid))));
}

void guests_open(struct task *t)
{
	guests.closing = false;
	DB_ALL (t, VM, vm) {
		if (!may_have_process(t, vm))
			continue;
		pthread_mutex_lock(&guests.lock);
		bool added = add(vm->row.ref, GUEST_ADOPTING) != NULL;
		pthread_mutex_unlock(&guests.lock);
		if (!added)
			log_line(t, "guest not adopted, no thread can be had for it vm=%s",
				 vm->uuid);
	}
}

/* Lock held. */
static bool is_any_being_met(void)
{
	const struct guest *g = guests.first;
	while (g && g->state != GUEST_ADOPTING)
		g = g->next;
	return g;
}

int guests_await(struct task *t)
{
	for (;;) {
		pthread_mutex_lock(&guests.lock);
		bool waits = is_any_being_met();
		if (waits)
			clock_wait(&guests.changed, &guests.lock,
				   clock_ms() + delay_ms(DELAY_SETTLE_LOOK));
		pthread_mutex_unlock(&guests.lock);
		if (!waits || task_check(t) < 0)
			return waits ? -1 : 0;
	}
}

void guests_close(void)
{
	pthread_mutex_lock(&guests.lock);
	guests.closing = true;
	for (struct guest *g = guests.first; g; g = g->next) {
		if (g->task)
			task_interrupt(g->task);
		guest_changed(g);
	}
	while (guests.keepers > 0)
		pthread_cond_wait(&guests.changed, &guests.lock);
	pthread_mutex_unlock(&guests.lock);
	full_close();
}
