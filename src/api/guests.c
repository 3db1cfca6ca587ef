// SPDX-License-Identifier: Apache-2.0
/* guests.c -- a guest's events come on its reader thread, which must not wait for anything: they are put on a
 * list, and one thread (the keeper) writes them to the rows. */
#include "api/guests.h"

#include <assert.h>
#include <pthread.h>
#include <unistd.h>

#include "api/agents.h"
#include "api/coalesce.h"
#include "api/console.h"
#include "api/firmware.h"
#include "api/full.h"
#include "api/guest_metrics.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/plug.h"
#include "api/power_on.h"
#include "api/settings.h"
#include "api/sizes.h"
#include "api/vm.h"
#include "api/vtpm.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

struct guest {
	struct guest *next;
	const char *ref;  /* of the VM */
	struct vmm *vmm;  /* NULL while it is being started */
	int64_t since_ms; /* it runs, as far as this daemon knows */
	int users;
	bool gone;     /* not to be used any more */
	bool unwanted; /* it is to end before it is there */
};

struct happening {
	struct happening *next;
	struct guest *guest;
	enum vmm_event event;
	char detail[64];
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t keeper;
	bool running, closing;
	struct guest *guests;
	struct happening *first, **last;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER,
	  .changed = PTHREAD_COND_INITIALIZER,
	  .last = &all.first };

/* ---- the list; lock held ---- */

static struct guest *find(const char *ref)
{
	struct guest *g = all.guests;
	while (g && !streq(g->ref, ref))
		g = g->next;
	return g;
}

static struct guest *add(const char *ref)
{
	struct guest *g = talloc_zero(NULL, struct guest);
	g->ref = talloc_strdup(g, ref);
	g->since_ms = clock_ms();
	g->next = all.guests;
	all.guests = g;
	return g;
}

static void take_off(struct guest *g)
{
	struct guest **at = &all.guests;
	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	pthread_cond_broadcast(&all.changed);
}

/* What the guest still had to say is no longer of interest. */
static void forget_happenings(struct guest *g)
{
	for (struct happening **at = &all.first; *at;) {
		struct happening *h = *at;
		if (h->guest == g) {
			*at = h->next;
			talloc_free(h);
		} else {
			at = &h->next;
		}
	}
	all.last = &all.first;
	while (*all.last)
		all.last = &(*all.last)->next;
}

/* ---- letting go ---- */

/* Nobody may use the guest from now on; waits for those who do. */
static void retire(struct guest *g)
{
	agents_forget(g->ref);
	pthread_mutex_lock(&all.lock);
	g->gone = true;
	while (g->users)
		pthread_cond_wait(&all.changed, &all.lock);
	pthread_mutex_unlock(&all.lock);
	if (g->vmm)
		settings.vmm->release(g->vmm);
	pthread_mutex_lock(&all.lock);
	take_off(g);
	forget_happenings(g);
	pthread_mutex_unlock(&all.lock);
	talloc_free(g);
}

/* ---- events ---- */

static void on_event(void *arg, enum vmm_event event, const char *detail)
{
	struct happening *h = talloc_zero(NULL, struct happening);
	h->guest = arg;
	h->event = event;
	snprintf(h->detail, sizeof h->detail, "%s", detail ? detail : "");
	pthread_mutex_lock(&all.lock);
	*all.last = h;
	all.last = &h->next;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

static int mark_gone(struct task *t, struct VM_row *vm)
{
	vm->frozen = vm->NVRAM_open = false;
	vm->resident_on = NULL_REF;
	vm->domid = -1;
	if (guest_metrics_silent(t, vm) < 0 ||
	    db_delete_all(t, &class_console, "VM", vm->row.ref) < 0)
		return -1;
	return db_put(t, &vm->row);
}

int guest_mark_halted(struct task *t, struct VM_row *vm)
{
	if (vtpm_save(t, vm) < 0)
		return -1;
	vm->power_state = vm_power_state_Halted;
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref) {
		if (!vbd->currently_attached)
			continue;
		vbd->currently_attached = false;
		if (db_put(t, &vbd->row) < 0)
			return -1;
	}
	DB_EACH (t, VIF, vif, "VM", vm->row.ref) {
		if (!vif->currently_attached)
			continue;
		vif->currently_attached = false;
		if (db_put(t, &vif->row) < 0)
			return -1;
	}
	return mark_gone(t, vm);
}

int guest_mark_suspended(struct task *t, struct VM_row *vm)
{
	return mark_gone(t, vm);
}

static int write_state(struct task *t, const char *ref, enum vm_power_state state)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm_has_process(vm) || vm->power_state == state)
		return 0; /* one that is being started is recorded by who starts it */
	vm->power_state = state;
	int written =
		state == vm_power_state_Halted ? guest_mark_halted(t, vm) : db_put(t, &vm->row);
	return written < 0 ? -1 : db_commit(t);
}

static enum vmm_status status_of(struct task *t, struct vmm *vmm)
{
	enum vmm_status status;
	if (settings.vmm->status(t, vmm, &status) == 0)
		return status;
	task_forgive(t);
	return VMM_RUNNING;
}

static enum vm_power_state state_of(enum vmm_status status)
{
	return status == VMM_RUNNING ? vm_power_state_Running : vm_power_state_Paused;
}

static void tell_operator(struct task *t, const struct VM_row *vm, const char *name,
			  const char *what, const char *disk)
{
	log_line(t, "storage trouble vm=%s disk=%s what=\"%s\"", vm->uuid, disk, what);
	message_tell(t, name, 3, cls_VM, vm->uuid,
		     str(t, "VM '%s' (uuid: %s), disk %s: %s", vm->name_label, vm->uuid, disk,
			 what));
}

/* The guest has stopped by itself: the row says Paused, a message why. */
static void storage_full(struct task *t, const char *ref, const char *disk)
{
	write_state(t, ref, vm_power_state_Paused);
	full_stopped(t, ref, disk, false);
}

/* The guest was told, and runs on as well as it can. */
static void storage_failed(struct task *t, const char *ref, const char *disk)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (vm)
		tell_operator(t, vm, "VM_STORAGE_ERROR",
			      "its storage failed, and the guest was told of an I/O error. Look at "
			      "the "
			      "host's storage.",
			      disk);
}

/* Does a call have it stand still and go on?  It sees to the row. */
static bool is_being_saved(const struct VM_row *vm)
{
	for (size_t i = 0; vm && i < vm->current_operations.n; i++) {
		const char *op = vm->current_operations.v[i].value;
		if (streq(op, "checkpoint") || streq(op, "suspend") || streq(op, "resume") ||
		    streq(op, "reverting"))
			return true;
	}
	return false;
}

/* Is a call waiting for its end?  It sees to what comes after. */
static bool is_awaited(const struct VM_row *vm)
{
	for (size_t i = 0; vm && i < vm->current_operations.n; i++) {
		const char *op = vm->current_operations.v[i].value;
		if (streq(op, "clean_shutdown") || streq(op, "clean_reboot") ||
		    streq(op, "hard_shutdown"))
			return true;
	}
	return false;
}

static void exited(struct task *t, struct guest *g, const char *how)
{
	const char *ref = talloc_strdup(t, g->ref);
	bool awaited = is_awaited(db_seek(t, VM, ref));
	int64_t ran_ms = clock_ms() - g->since_ms;
	log_line(t, "guest ended vm=%s how=%s", ref, *how ? how : "unknown");
	write_state(t, ref, vm_power_state_Halted);
	retire(g);
	sizes_look_at(t, ref);
	if (awaited)
		return;
	firmware_note_soon(t, ref);
	power_on_after_end(t, ref, how, ran_ms);
}

/* The guest stands still, or ends, as actions_after_crash says. */
static void crashed(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm)
		return;
	log_line(t, "guest crashed vm=%s", vm->uuid);
	message_tell(t, "VM_CRASHED", 3, cls_VM, vm->uuid,
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

static void handle(struct task *t, const struct happening *h)
{
	struct guest *g = h->guest;
	switch (h->event) {
	case VMM_EXITED:
		exited(t, g, h->detail);
		break;
	case VMM_STOPPED:
	case VMM_RESUMED:
		/* The event may be older than what was done since: the VM is asked. */
		if (!is_being_saved(db_seek(t, VM, g->ref)))
			write_state(t, g->ref, state_of(status_of(t, g->vmm)));
		break;
	case VMM_NOSPACE:
		storage_full(t, g->ref, h->detail);
		break;
	case VMM_IOERROR:
		storage_failed(t, g->ref, h->detail);
		break;
	case VMM_REBOOTED:
		log_line(t, "guest reset itself vm=%s", g->ref);
		break;
	case VMM_CRASHED:
		crashed(t, g->ref);
		break;
	case VMM_UNPLUGGED:
		plug_gone(t, g->ref, h->detail);
		break;
	case VMM_AGENT:
		if (*h->detail)
			agents_watch(g->ref);
		else
			agent_went(t, g->ref);
		break;
	}
}

/* The next happening of a guest that nobody retires meanwhile; NULL at the end. */
static struct happening *next_happening(void)
{
	struct happening *h = NULL;
	pthread_mutex_lock(&all.lock);
	while (!all.closing && !h) {
		h = all.first;
		if (!h) {
			pthread_cond_wait(&all.changed, &all.lock);
			continue;
		}
		all.first = h->next;
		if (!all.first)
			all.last = &all.first;
		if (h->guest->gone || (!h->guest->vmm && h->event != VMM_EXITED)) {
			talloc_free(h);
			h = NULL;
		} else if (h->event == VMM_EXITED) {
			h->guest->gone = true; /* ours to retire */
		} else {
			h->guest->users++;
		}
	}
	pthread_mutex_unlock(&all.lock);
	return h;
}

static void put(struct guest *g)
{
	pthread_mutex_lock(&all.lock);
	g->users--;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

static void *keep(void *arg)
{
	(void)arg;
	for (struct happening *h; (h = next_happening()) != NULL;) {
		struct task *t = task_new(NULL, "guest");
		bool ours = h->event != VMM_EXITED;
		handle(t, h);
		if (t->code != NO_ERROR)
			log_line(t, "guest event not recorded error=\"%s\"", task_error(t));
		if (ours)
			put(h->guest);
		talloc_free(h);
		talloc_free(t);
	}
	return NULL;
}

/* ---- using guests ---- */

struct hold {
	struct hold *next;
	struct guest *guest;
	const struct vmm *vmm;
};

static int hold_free(struct hold *h)
{
	put(h->guest);
	return 0;
}

struct vmm *guest_get(const void *hold, const char *ref)
{
	struct vmm *vmm = NULL;
	pthread_mutex_lock(&all.lock);
	struct guest *g = find(ref);
	if (g && !g->gone && g->vmm) {
		struct hold *h = talloc(hold, struct hold);
		h->guest = g;
		g->users++;
		vmm = g->vmm;
		talloc_set_destructor(h, hold_free);
	}
	pthread_mutex_unlock(&all.lock);
	return vmm;
}

bool guest_alive(const char *ref)
{
	void *hold = talloc_new(NULL);
	bool alive = guest_get(hold, ref) != NULL;
	talloc_free(hold);
	return alive;
}

struct list guests_running(struct task *t)
{
	struct list refs = { 0 };
	pthread_mutex_lock(&all.lock);
	for (struct guest *g = all.guests; g; g = g->next)
		if (!g->gone && g->vmm)
			list_add(t, &refs, g->ref);
	pthread_mutex_unlock(&all.lock);
	return refs;
}

bool guest_ends(struct task *t, const char *ref)
{
	int64_t end = clock_ms() + delay_ms(DELAY_GUEST_END);
	while (guest_alive(ref) && clock_ms() < end)
		task_wait(t, -1, 0, delay_ms(DELAY_GUEST_END_LOOK));
	return !guest_alive(ref);
}

bool guest_settle(struct task *t, const char *ref)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_get(hold, ref);
	bool full = vmm && status_of(t, vmm) == VMM_IO_ERROR;
	talloc_free(hold);
	if (full && write_state(t, ref, vm_power_state_Paused) < 0)
		task_forgive(t);
	return full;
}

int guest_settle_state(struct task *t, const char *ref)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_get(hold, ref);
	int result = vmm ? write_state(t, ref, state_of(status_of(t, vmm))) : 0;
	talloc_free(hold);
	return result;
}

/* The row may still say that the VM has a process. */
static void has_none(struct task *t, const char *ref)
{
	static const char needed[] = "running, paused";
	const struct VM_row *now = db_seek(t, VM, ref);
	if (now && !vm_has_process(now))
		bad_power_state(t, now, needed);
	else
		fail(t, VM_BAD_POWER_STATE, ref, needed, "halted");
}

struct vmm *guest_need(struct task *t, const void *hold, const struct VM_row *vm)
{
	struct vmm *vmm = guest_get(hold, vm->row.ref);
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

/* The former process of the VM may still be on its way out. */
static struct guest *reserve(struct task *t, const char *ref)
{
	struct guest *g = NULL;
	int64_t end = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	while (!g && task_check(t) == 0) {
		pthread_mutex_lock(&all.lock);
		if (find(ref))
			clock_wait(&all.changed, &all.lock,
				   clock_ms() + delay_ms(DELAY_GUEST_END_LOOK));
		if (!find(ref)) {
			g = add(ref);
			g->users = 1;
		}
		pthread_mutex_unlock(&all.lock);
		if (!g && clock_ms() > end)
			return fail_ptr(t, OPERATION_NOT_ALLOWED,
					"the process that the VM had does not end; the file pid in "
					"the VM's folder has its number");
	}
	return g;
}

/* vmm NULL: there is no process.  Whether somebody waits for its end. */
static bool unreserve(struct guest *g, struct vmm *vmm)
{
	pthread_mutex_lock(&all.lock);
	bool unwanted = g->unwanted;
	g->vmm = vmm;
	g->users--;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	if (!vmm)
		retire(g);
	return unwanted;
}

static bool is_unwanted(const struct guest *g)
{
	pthread_mutex_lock(&all.lock);
	bool unwanted = g->unwanted;
	pthread_mutex_unlock(&all.lock);
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
	if (!guest_alive(vm->row.ref) || guest_stop(t, vm->row.ref) == 0)
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
	struct vmm_listener listener = { .event = on_event, .arg = g };
	struct vmm *vmm = is_unwanted(g) ? NULL : settings.vmm->start(t, config, listener);
	s->guest = NULL;
	if (!unreserve(g, vmm))
		return vmm ? 0 : -1;
	task_forgive(t); /* it was ended on the way */
	return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", ref, "hard_shutdown", NULL_REF);
}

/* ---- ending ---- */

/* A process that did not answer when the daemon started, or that is not yet one of a guest's, is
 * known by its folder only. */
static int kill_unheard(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	return vm ? settings.vmm->kill(t, vm->uuid, guest_path(t, vm->uuid)) : 0;
}

/* Takes the guest off the list of those that can be used; *ret is NULL when there is none.  False:
 * another task is starting one just now, and is told that nobody wants it. */
static bool claim(const char *ref, struct guest **ret)
{
	pthread_mutex_lock(&all.lock);
	struct guest *g = find(ref);
	bool is_there = !g || g->gone || g->vmm;
	*ret = is_there && g && !g->gone ? g : NULL;
	if (*ret)
		g->gone = true;
	else if (!is_there)
		g->unwanted = true;
	pthread_mutex_unlock(&all.lock);
	return is_there;
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

int guest_stop(struct task *t, const char *ref)
{
	struct guest *g;
	if (claim_or_end(t, ref, &g) < 0)
		return -1;
	if (!g)
		return 0;
	coalesce_interrupt_vm(ref);
	if (settings.vmm->stop(t, g->vmm) < 0) {
		pthread_mutex_lock(&all.lock);
		g->gone = false;
		pthread_mutex_unlock(&all.lock);
		return -1;
	}
	retire(g);
	return 0;
}

/* ---- start and end of the daemon ---- */

/* The process that an earlier version started has noted nothing. */
static void note_store(struct task *t, const char *ref, struct vmm *vmm)
{
	const char *node;
	if (settings.vmm->top(t, vmm, VMM_NVRAM, &node) < 0) {
		task_forgive(t);
		return;
	}
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm || vm->NVRAM_open == (*node != 0))
		return;
	vm->NVRAM_open = *node != 0;
	if (db_put(t, &vm->row) < 0 || db_commit(t) < 0)
		task_forgive(t);
}

/* A process may run though the row says Halted: the daemon died while starting it.  It is found
 * here, and ended when the journal is replayed. */
static void adopt(struct task *t, const struct VM_row *vm)
{
	const char *dir = guest_path(t, vm->uuid);
	bool halted = !vm_has_process(vm), suspended = vm->power_state == vm_power_state_Suspended;
	if (halted && !suspended && !file_exists(str(t, "%s/pid", dir)))
		return;
	struct guest *g = reserve(t, vm->row.ref);
	struct vmm *vmm = settings.vmm->adopt(t, vm->uuid, dir,
					      (struct vmm_listener){ .event = on_event, .arg = g });
	unreserve(g, vmm);
	if (vmm && suspended && settings.vmm->stop(t, vmm) == 0) {
		log_line(t, "process of a suspended VM ended vm=%s", vm->uuid);
		retire(g);
		return;
	}
	if (vmm) {
		log_line(t, "guest adopted vm=%s", vm->uuid);
		if (!halted) {
			enum vmm_status status = status_of(t, vmm);
			write_state(t, vm->row.ref, state_of(status));
			if (status == VMM_IO_ERROR)
				full_stopped(t, vm->row.ref, "",
					     vm->power_state == vm_power_state_Paused);
			plug_settle_all(t, vm->row.ref);
			note_store(t, vm->row.ref, vmm);
			agents_watch(vm->row.ref);
		}
		return;
	}
	if (t->code == NO_ERROR) {
		write_state(t, vm->row.ref, vm_power_state_Halted);
		return;
	}
	log_line(t, "guest does not answer vm=%s error=\"%s\"", vm->uuid, task_error(t));
	task_forgive(t);
	/* One that was never recorded as running is nobody's.  Of another the operator decides, with
	 * vm-shutdown --force, or by starting the daemon again when it answers. */
	if (halted && kill_unheard(t, vm->row.ref) < 0)
		log_line(t, "guest not ended vm=%s error=\"%s\"", vm->uuid, task_error(t));
}

/* One that an earlier version started lacks what this one gives to each VM that runs. */
static int complete(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (vm_has_process(vm) && consoles_make(t, vm) < 0)
		return -1;
	return db_commit(t);
}

int guests_open(struct task *t)
{
	all.closing = false;
	DB_ALL (t, VM, vm) {
		if (vm->is_a_template)
			continue;
		struct task *own = task_new(t, "adopt");
		adopt(own, vm);
		if (complete(own, vm->row.ref) < 0)
			log_line(own, "guest not recorded vm=%s error=\"%s\"", vm->uuid,
				 task_error(own));
		talloc_free(own);
	}
	int err = pthread_create(&all.keeper, NULL, keep, NULL);
	if (err)
		return task_fail_errno(t, err, "thread");
	all.running = true;
	return 0;
}

void guests_close(void)
{
	pthread_mutex_lock(&all.lock);
	all.closing = true;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	if (all.running)
		pthread_join(all.keeper, NULL);
	all.running = false;
	while (all.guests)
		retire(all.guests);
	full_close();
}
