// SPDX-License-Identifier: Apache-2.0
/* keeper.c -- a guest's keeper: the thread that asks what an earlier daemon has left, writes to the rows what the guest
 * tells, and lets go of it at its end.
 *
 * Events come on the guest's reader thread, which must not wait for anything: they are put on the guest's list.  Of those
 * that mean the same only the last is kept, and of the others so many, whatever a QEMU says that somebody has taken
 * over. */
#include <stdio.h>

#include "api/agents.h"
#include "api/console.h"
#include "api/firmware.h"
#include "api/full.h"
#include "api/guest.h"
#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/message.h"
#include "api/plug.h"
#include "api/power_on.h"
#include "api/settings.h"
#include "api/sizes.h"
#include "api/vm.h"
#include "base/delay.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* ---- what it hears; lock held ---- */

void guest_changed(struct guest *g)
{
	pthread_cond_broadcast(&g->news);
	pthread_cond_broadcast(&guests.changed);
}

static bool tells_state(enum vmm_event e)
{
	return e == VMM_STOPPED || e == VMM_RESUMED;
}

/* Does the later one say all that the earlier one does?  Of a state the VM is asked, and of an agent the last word
 * counts. */
static bool replaces(const struct happening *later, const struct happening *earlier)
{
	if (tells_state(later->event))
		return tells_state(earlier->event);
	return later->event == earlier->event &&
	       (later->event == VMM_AGENT || streq(later->detail, earlier->detail));
}

/* Takes off what is replaced, if there is that.  The place where the next one goes. */
static struct happening **end_without(struct guest *g, const struct happening *h)
{
	struct happening **at = &g->first;
	while (*at) {
		struct happening *earlier = *at;
		if (!replaces(h, earlier)) {
			at = &earlier->next;
			continue;
		}
		*at = earlier->next;
		g->happenings--;
		talloc_free(earlier);
	}
	return at;
}

/* Events that name a device may be many; of the others there is one each at most. */
static bool names_a_device(enum vmm_event e)
{
	return e == VMM_NOSPACE || e == VMM_IOERROR || e == VMM_UNPLUGGED;
}

/* False: there are too many. */
static bool put(struct guest *g, struct happening *h)
{
	struct happening **end = end_without(g, h);
	if (names_a_device(h->event) && g->happenings >= GUEST_EVENTS_LIMIT)
		return false;
	*end = h;
	g->happenings++;
	g->ended |= h->event == VMM_EXITED;
	guest_changed(g);
	return true;
}

static struct happening *take_first(struct guest *g)
{
	struct happening *h = g->state == GUEST_UP && !g->claimed ? g->first : NULL;
	if (h) {
		g->first = h->next;
		g->happenings--;
		g->deaf = false;
	}
	return h;
}

void keeper_hears(void *arg, enum vmm_event event, const char *detail)
{
	struct guest *g = arg;
	struct happening *h = talloc_zero(NULL, struct happening);
	h->event = event;
	snprintf(h->detail, sizeof h->detail, "%s", detail ? detail : "");
	pthread_mutex_lock(&guests.lock);
	bool taken = put(g, h), first = !taken && !g->deaf;
	g->deaf |= !taken;
	pthread_mutex_unlock(&guests.lock);
	if (first)
		log_line(NULL, "guest tells more than is listened to vm=%s", g->ref);
	if (!taken)
		talloc_free(h);
}

/* ---- at work ---- */

static void set_task(struct guest *g, struct task *t)
{
	pthread_mutex_lock(&guests.lock);
	g->task = t;
	if (t && guests.closing)
		task_interrupt(t);
	pthread_mutex_unlock(&guests.lock);
}

static struct task *work_begin(struct guest *g, const char *name)
{
	struct task *t = task_new(NULL, name);
	t->cancellable =
		true; /* at the daemon's end, and by who ends the guest before it is there */
	set_task(g, t);
	return t;
}

static void work_end(struct guest *g, struct task *t)
{
	set_task(g, NULL);
	talloc_free(t);
}

/* ---- letting go ---- */

static void take_off(struct guest *g)
{
	struct guest **at = &guests.first;
	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	pthread_cond_broadcast(&guests.changed);
}

/* Nobody gets the guest from now on; waits for those who have it.  It runs on, or has ended. */
static void let_go(struct guest *g)
{
	agents_forget(g->ref);
	pthread_mutex_lock(&guests.lock);
	g->over = true;
	while (g->users > 0)
		pthread_cond_wait(&g->news, &guests.lock);
	pthread_mutex_unlock(&guests.lock);
	if (g->vmm)
		settings.vmm->release(g->vmm);
	pthread_mutex_lock(&guests.lock);
	take_off(g);
	pthread_mutex_unlock(&guests.lock);
	for (struct happening *h; (h = g->first);) {
		g->first = h->next;
		talloc_free(h);
	}
	pthread_cond_destroy(&g->news);
	talloc_free(g);
}

/* ---- what events mean ---- */

static bool is_busy_with(const struct VM_row *vm, const char *const *ops)
{
	for (size_t i = 0; vm && i < vm->current_operations.n; i++)
		for (const char *const *op = ops; *op; op++)
			if (streq(vm->current_operations.v[i].value, *op))
				return true;
	return false;
}

/* Does a call have it stand still and go on?  It sees to the row. */
static bool is_being_saved(const struct VM_row *vm)
{
	static const char *const ops[] = { "checkpoint", "suspend", "resume", "reverting", NULL };
	return is_busy_with(vm, ops);
}

/* Is a call waiting for its end?  It sees to what comes after. */
static bool is_awaited(const struct VM_row *vm)
{
	static const char *const ops[] = { "clean_shutdown", "clean_reboot", "hard_shutdown",
					   NULL };
	return is_busy_with(vm, ops);
}

static void tell_operator(struct task *t, const struct VM_row *vm, const char *name,
			  const char *what, const char *disk)
{
	log_line(t, "storage trouble vm=%s disk=%s what=\"%s\"", vm->uuid, disk, what);
	message_tell(t, name, MESSAGE_WARNING, cls_VM, vm->uuid,
		     str(t, "VM '%s' (uuid: %s), disk %s: %s", vm->name_label, vm->uuid, disk,
			 what));
}

/* The guest has stopped by itself: the row says Paused, a message why. */
static void storage_full(struct task *t, const char *ref, const char *disk)
{
	guest_write_state(t, ref, vm_power_state_Paused);
	full_stopped(t, ref, disk, false);
}

/* The guest was told, and runs on as well as it can. */
static void storage_failed(struct task *t, const char *ref, const char *disk)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (vm)
		tell_operator(t, vm, "VM_STORAGE_ERROR",
			      "its storage failed, and the guest was told of an I/O error. Look at "
			      "the host's storage.",
			      disk);
}

/* The guest stands still, or ends, as actions_after_crash says. */
static void crashed(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm)
		return;
	log_line(t, "guest crashed vm=%s", vm->uuid);
	message_tell(t, "VM_CRASHED", MESSAGE_WARNING, cls_VM, vm->uuid,
		     str(t, "VM '%s' (uuid: %s) crashed", vm->name_label, vm->uuid));
}

/* The row is written after those who ask were told, so that it is the last word. */
static int agent_went(struct task *t, const char *ref)
{
	agents_forget(ref);
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (vm && guest_metrics_silent(t, vm) < 0)
		return -1;
	return db_commit(t);
}

bool keeper_is_one_too_many(struct guest *g, enum vmm_event e)
{
	int64_t now = clock_ms(), word = delay_ms(DELAY_GUEST_WORD);
	if (e != VMM_IOERROR && e != VMM_CRASHED && e != VMM_REBOOTED)
		return false;
	g->words_ms = (g->words_ms > now ? g->words_ms : now) + word;
	if (g->words_ms <= now + GUEST_WORDS_LIMIT * word)
		return false;
	g->words_ms -= word;
	return true;
}

static void handle(struct task *t, const char *ref, const struct happening *h)
{
	switch (h->event) {
	case VMM_EXITED:
		break; /* bury() */
	case VMM_STOPPED:
	case VMM_RESUMED:
		/* The event may be older than what was done since: the VM is asked. */
		if (!is_being_saved(db_seek(t, VM, ref)))
			guest_settle_state(t, ref);
		break;
	case VMM_NOSPACE:
		storage_full(t, ref, h->detail);
		break;
	case VMM_IOERROR:
		storage_failed(t, ref, h->detail);
		break;
	case VMM_REBOOTED:
		log_line(t, "guest reset itself vm=%s", ref);
		break;
	case VMM_CRASHED:
		crashed(t, ref);
		break;
	case VMM_UNPLUGGED:
		plug_gone(t, ref, h->detail);
		break;
	case VMM_AGENT:
		if (*h->detail)
			agents_watch(ref);
		else
			agent_went(t, ref);
		break;
	}
}

static void attend(struct guest *g, struct happening *h)
{
	struct task *t = work_begin(g, "guest");
	if (!keeper_is_one_too_many(g, h->event))
		handle(t, g->ref, h);
	if (t->code != NO_ERROR)
		log_line(t, "guest event not recorded error=\"%s\"", task_error(t));
	work_end(g, t);
	talloc_free(h);
}

/* Has a call come to end it meanwhile? */
static bool is_unwanted(const struct guest *g)
{
	pthread_mutex_lock(&guests.lock);
	bool unwanted = g->unwanted;
	pthread_mutex_unlock(&guests.lock);
	return unwanted;
}

/* The guest has ended by itself: its rows say so, and it may be started again. */
static void bury(struct guest *g, struct happening *h)
{
	struct task *t = task_new(NULL, "guest");
	const char *ref = talloc_strdup(t, g->ref);
	bool awaited = is_awaited(db_seek(t, VM, ref));
	int64_t ran_ms = clock_ms() - g->since_ms;
	log_line(t, "guest ended vm=%s how=%s", ref, *h->detail ? h->detail : "unknown");
	if (guest_write_state(t, ref, vm_power_state_Halted) < 0)
		log_line(t, "guest event not recorded error=\"%s\"", task_error(t));
	awaited |= is_unwanted(g);
	let_go(g);
	sizes_look_at(t, ref);
	if (!awaited) {
		firmware_note_soon(t, ref);
		power_on_after_end(t, ref, h->detail, ran_ms);
	}
	talloc_free(h);
	talloc_free(t);
}

/* ---- what an earlier daemon has left ---- */

enum met { NOBODY, SILENT, MET };

static bool is_closing(void)
{
	pthread_mutex_lock(&guests.lock);
	bool closing = guests.closing;
	pthread_mutex_unlock(&guests.lock);
	return closing;
}

static void set_vmm(struct guest *g, struct vmm *vmm)
{
	pthread_mutex_lock(&guests.lock);
	g->vmm = vmm;
	pthread_mutex_unlock(&guests.lock);
}

static void set_state(struct guest *g, enum guest_state state)
{
	pthread_mutex_lock(&guests.lock);
	g->state = state;
	guest_changed(g);
	pthread_mutex_unlock(&guests.lock);
}

/* The process that an earlier version started has noted nothing. */
static void note_store(struct task *t, const char *ref, struct vmm *vmm)
{
	const char *node;
	if (settings.vmm->top(t, vmm, VMM_NVRAM, &node) < 0)
		return;
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm || vm->NVRAM_open == (*node != 0))
		return;
	vm->NVRAM_open = *node != 0;
	if (db_put(t, &vm->row) == 0)
		db_commit(t);
}

/* A VM that an earlier version started may lack rows that this one makes for each VM that runs: its consoles. */
static int complete(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || (vm_has_process(vm) && consoles_make(t, vm) < 0))
		return -1;
	return db_commit(t);
}

/* The rows are made to say what the VM says; nobody else uses it yet. */
static void agree(struct task *t, const struct VM_row *then, struct vmm *vmm)
{
	enum vmm_status status;
	const char *ref = then->row.ref;
	if (settings.vmm->status(t, vmm, &status) == 0 &&
	    guest_write_state(t, ref, guest_state_of(status)) == 0 && status == VMM_IO_ERROR)
		full_stopped(t, ref, "", then->power_state == vm_power_state_Paused);
	task_forgive(t);
	plug_settle_all(t, ref);
	note_store(t, ref, vmm);
	task_forgive(t);
	if (complete(t, ref) < 0)
		log_line(t, "guest not recorded vm=%s error=\"%s\"", then->uuid, task_error(t));
	task_forgive(t);
}

/* What a suspended VM was before is not wanted any more. */
static enum met end_sleeper(struct task *t, const struct VM_row *vm, struct vmm *vmm)
{
	if (settings.vmm->stop(t, vmm) < 0)
		return MET;
	log_line(t, "process of a suspended VM ended vm=%s", vm->uuid);
	return NOBODY;
}

static enum met welcome(struct task *t, struct guest *g, const struct VM_row *vm, struct vmm *vmm)
{
	set_vmm(g, vmm);
	if (vm->power_state == vm_power_state_Suspended)
		return end_sleeper(t, vm, vmm);
	log_line(t, "guest adopted vm=%s", vm->uuid);
	if (vm_has_process(vm))
		agree(t, vm, vmm);
	return MET;
}

/* A process whose VM was never recorded as running is left over from a start that failed, and is ended.  One whose row says
 * that it runs is left alone: it is asked again, and the operator may end it. */
static enum met note_silent(struct task *t, struct guest *g, const struct VM_row *vm)
{
	if (is_closing())
		return SILENT;
	if (g->state != GUEST_UNHEARD)
		log_line(t, "guest does not answer vm=%s error=\"%s\"", vm->uuid, task_error(t));
	task_forgive(t);
	if (vm_has_process(vm))
		return SILENT;
	if (settings.vmm->kill(t, vm->uuid, guest_path(t, vm->uuid)) < 0)
		log_line(t, "guest not ended vm=%s error=\"%s\"", vm->uuid, task_error(t));
	return NOBODY;
}

static enum met meet(struct task *t, struct guest *g)
{
	struct vmm_listener listener = { .event = keeper_hears, .arg = g, .vm = g->ref };
	const struct VM_row *vm = db_seek(t, VM, g->ref);
	if (!vm)
		return NOBODY; /* its folder is a deed to come */
	struct vmm *vmm = settings.vmm->adopt(t, vm->uuid, guest_path(t, vm->uuid), listener);
	if (vmm)
		return welcome(t, g, vm, vmm);
	if (t->code != NO_ERROR)
		return note_silent(t, g, vm);
	if (guest_write_state(t, g->ref, vm_power_state_Halted) < 0)
		log_line(t, "guest event not recorded error=\"%s\"", task_error(t));
	return NOBODY;
}

/* Sooner when somebody ends it.  False: the daemon ends. */
static bool wait_to_ask_again(struct guest *g)
{
	int64_t until = clock_ms() + delay_ms(DELAY_ADOPT_AGAIN);
	pthread_mutex_lock(&guests.lock);
	while (!guests.closing && !g->unwanted && clock_ms() < until)
		clock_wait(&g->news, &guests.lock, until);
	g->unwanted = false;
	bool goes_on = !guests.closing;
	pthread_mutex_unlock(&guests.lock);
	return goes_on;
}

static enum met ask(struct guest *g)
{
	struct task *t = work_begin(g, "adopt");
	enum met met = meet(t, g);
	work_end(g, t);
	return met;
}

/* Whether there is anybody to be kept. */
static bool adopt(struct guest *g)
{
	enum met met;
	while ((met = ask(g)) == SILENT) {
		set_state(g, GUEST_UNHEARD);
		if (!wait_to_ask_again(g))
			return false;
	}
	if (met == MET)
		set_state(g, GUEST_UP);
	return met == MET;
}

/* ---- the thread ---- */

static bool is_over(const struct guest *g)
{
	return g->over || (guests.closing && g->state != GUEST_STARTING && !g->claimed);
}

/* NULL: it is to be let go of. */
static struct happening *next_happening(struct guest *g)
{
	struct happening *h = NULL;
	pthread_mutex_lock(&guests.lock);
	while (!is_over(g) && !(h = take_first(g)))
		pthread_cond_wait(&g->news, &guests.lock);
	pthread_mutex_unlock(&guests.lock);
	return h;
}

static void watch_agent(const char *ref)
{
	struct task *t = task_new(NULL, "guest");
	if (vm_has_process(db_seek(t, VM, ref)))
		agents_watch(ref);
	talloc_free(t);
}

static bool is_found(const struct guest *g)
{
	pthread_mutex_lock(&guests.lock);
	bool found = g->state == GUEST_ADOPTING;
	pthread_mutex_unlock(&guests.lock);
	return found;
}

static void keep_up(struct guest *g)
{
	struct happening *h;
	while ((h = next_happening(g)) && h->event != VMM_EXITED)
		attend(g, h);
	if (h)
		bury(g, h);
	else
		let_go(g);
}

static void *keep(void *arg)
{
	struct guest *g = arg;
	bool found = is_found(g);
	if (found && !adopt(g)) {
		let_go(g);
	} else {
		if (found)
			watch_agent(g->ref);
		keep_up(g);
	}
	pthread_mutex_lock(&guests.lock);
	guests.keepers--;
	pthread_cond_broadcast(&guests.changed);
	pthread_mutex_unlock(&guests.lock);
	return NULL;
}

int keeper_begin(struct guest *g)
{
	int err = pthread_create(&g->keeper, NULL, keep, g);
	if (err)
		return err;
	pthread_detach(g->keeper);
	guests.keepers++;
	return 0;
}
