// SPDX-License-Identifier: Apache-2.0
#include "stillframed/caretaker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "api/guests.h"
#include "api/settings.h"
#include "api/step.h"
#include "api/tree.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "base/thread.h"
#include "db/db.h"
#include "db/journal.h"
#include "stillframed/lock.h"
#include "vmm/agent.h"
#include "vmm/apart.h"
#include "vmm/freeze.h"
#include "vmm/vmm.h"

#define NAME "stillframe-caretaker"

/* ---- the daemon's side ---- */

static int words = -1; /* of the main thread, and while they run of the timers' */

/* Nothing is heard from it but that it is there. */
static bool is_there(struct task *t)
{
	char word[8];
	return task_wait(t, words, POLLIN, delay_ms(DELAY_CARETAKER_READY)) > 0 &&
	       recv(words, word, sizeof word, MSG_DONTWAIT) > 0;
}

int caretaker_open(struct task *t)
{
	const char *const argv[] = { NAME, CARETAKER_OPTION, settings.vmm->name, settings.state,
				     NULL };
	words = apart_open(t, argv, NULL, 0);
	if (words < 0)
		return -1;
	if (is_there(t))
		return 0;
	fd_close(&words);
	return t->code ? -1 : fail(t, INTERNAL_ERROR, "the caretaker does not come up");
}

void caretaker_look(struct task *t)
{
	struct pollfd p = { .fd = words, .events = POLLIN };
	if (words >= 0 && poll(&p, 1, 0) == 0)
		return;
	log_line(t, "there is no caretaker, and another one is made");
	fd_close(&words);
	caretaker_open(t);
}

void caretaker_dismiss(void)
{
	apart_close(&words, delay_ms(DELAY_CARETAKER_END));
}

/* ---- what the journal says ---- */

struct guest {
	struct guest *next;
	const char *ref, *uuid;
	bool stands;         /* VM_RESUME */
	bool frozen;         /* GUEST_THAW of the deeds to come: there is no freezer */
	struct step *merges; /* MERGE_SETTLE */
	size_t nmerges;
	pthread_t thread; /* if `begun` */
	bool begun;
};

static bool always(struct task *t, const struct journal_row *r)
{
	(void)t, (void)r;
	return true;
}

static void note_standing(struct task *t, struct guest *g, const struct journal_row *r)
{
	(void)t, (void)r;
	g->stands = true;
}

static bool is_to_come(struct task *t, const struct journal_row *r)
{
	(void)t;
	return ends_with(r->op, "+");
}

static void note_frozen(struct task *t, struct guest *g, const struct journal_row *r)
{
	(void)t, (void)r;
	g->frozen = true;
}

static bool holds_a_guest(struct task *t, const struct journal_row *r)
{
	const struct step s = step_read(t, r->args.v);
	return step_holds_guest(&s);
}

static void note_merge(struct task *t, struct guest *g, const struct journal_row *r)
{
	g->merges = talloc_realloc(t, g->merges, struct step, g->nmerges + 1);
	g->merges[g->nmerges++] = step_read(t, r->args.v);
}

static const struct verb {
	const char *name;
	size_t nargs, vm; /* which of them is the VM's ref */
	bool (*counts)(struct task *, const struct journal_row *);
	void (*note)(struct task *, struct guest *, const struct journal_row *);
} verbs[] = {
	{ "VM_RESUME", 1, 0, always, note_standing },
	{ "GUEST_THAW", 1, 0, is_to_come, note_frozen },
	{ "MERGE_SETTLE", 8, 1, holds_a_guest, note_merge },
};

/* NULL: no guest waits for what it is about. */
static const struct verb *verb_of(struct task *t, const struct journal_row *r)
{
	for (size_t i = 0; i < COUNT(verbs); i++)
		if (streq(verbs[i].name, r->verb) && verbs[i].nargs == r->args.n)
			return verbs[i].counts(t, r) ? &verbs[i] : NULL;
	return NULL;
}

static bool is_to_end(struct task *t, const struct VM_row *vm)
{
	return journal_mentions(t, "GUEST_KILL", 0, vm->row.ref) ||
	       journal_mentions(t, "GUEST_REMOVE", 0, vm->uuid);
}

/* NULL: it is nobody, or left alone. */
static struct guest *guest_of(struct task *t, struct guest **all, const char *ref)
{
	for (struct guest *g = *all; g; g = g->next)
		if (streq(g->ref, ref))
			return g;
	const struct VM_row *vm = *ref ? db_seek(t, VM, ref) : NULL;
	if (!vm || is_to_end(t, vm))
		return NULL;
	struct guest *g = talloc_zero(t, struct guest);
	*g = (struct guest){ .next = *all, .ref = vm->row.ref, .uuid = vm->uuid };
	return *all = g;
}

static struct guest *guests_of_the_journal(struct task *t)
{
	struct guest *all = NULL;
	for (struct journal_row *r = journal_rows(t, NULL); r->nr; r++) {
		const struct verb *v = verb_of(t, r);
		struct guest *g = v ? guest_of(t, &all, r->args.v[v->vm]) : NULL;
		if (g)
			v->note(t, g, r);
	}
	return all;
}

/* ---- letting go ---- */

static int go_on(struct task *t, const struct guest *g, struct vmm *vmm)
{
	enum vmm_status status;
	if (settings.vmm->status(t, vmm, &status) < 0)
		return -1;
	if (status != VMM_PAUSED)
		return 0;
	if (settings.vmm->resume(t, vmm) < 0)
		return -1;
	log_line(t, "guest let go on vm=%s", g->uuid);
	return 0;
}

/* One that a user has paused is thawed when he lets it go on. */
static int thaw(struct task *t, struct vmm *vmm)
{
	enum vmm_status status;
	int port = -1;
	if (settings.vmm->status(t, vmm, &status) < 0)
		return -1;
	if (status != VMM_RUNNING)
		return 0;
	return settings.vmm->agent(t, vmm, &port) < 0 ? -1 : freeze_release(t, agent_new(t, port));
}

static int let_go(struct task *t, const struct guest *g, struct vmm *vmm)
{
	if (g->stands && go_on(t, g, vmm) < 0)
		return -1;
	for (size_t i = 0; i < g->nmerges; i++)
		if (step_let_go(t, &g->merges[i], vmm) < 0)
			return -1;
	return g->frozen ? thaw(t, vmm) : 0;
}

static void pass_over(void *arg, enum vmm_event event, const char *detail)
{
	(void)arg, (void)event, (void)detail;
}

static int visit(struct task *t, const struct guest *g)
{
	const struct vmm_listener nobody = { .event = pass_over, .vm = g->ref };
	struct vmm *vmm = settings.vmm->adopt(t, g->uuid, guest_path(t, g->uuid), nobody);
	if (!vmm)
		return t->code ? -1 : 0; /* it has ended */
	int result = let_go(t, g, vmm);
	settings.vmm->release(vmm);
	return result;
}

/* A QEMU that does not answer may do so later, and nobody else cares. */
static void *care_for(void *arg)
{
	const struct guest *g = arg;
	int64_t until = clock_ms() + delay_ms(DELAY_CARETAKER_STAY);
	for (bool first = true;; first = false) {
		struct task *t = task_new(NULL, "caretaker");
		int result = visit(t, g);
		if (result < 0 && first)
			log_line(t, "guest not let go on yet vm=%s error=\"%s\"", g->uuid,
				 task_error(t));
		talloc_free(t);
		if (result == 0 || clock_ms() > until)
			return NULL;
		delay_sleep(DELAY_CARETAKER_AGAIN);
	}
}

/* All at once: a QEMU that hangs is to hold up no other. */
static void let_all_go(struct task *t)
{
	if (db_open_to_read(t, str(t, "%s/state.db", settings.state)) < 0) {
		log_line(t, "the journal cannot be read error=\"%s\"", task_error(t));
		return;
	}
	struct guest *all = guests_of_the_journal(t);
	for (struct guest *g = all; g; g = g->next) {
		g->begun = thread_begin(t, &g->thread, care_for, g) == 0;
		task_forgive(t);
	}
	for (struct guest *g = all; g; g = g->next) {
		if (g->begun)
			pthread_join(g->thread, NULL);
		else
			care_for(g);
	}
}

/* ---- its life ---- */

/* False: it is told that nothing is to be done. */
static bool await_end(void)
{
	char word[8];
	ssize_t n;
	while ((n = recv(APART_FIRST, word, sizeof word, 0)) < 0 && errno == EINTR)
		;
	return n <= 0;
}

int caretaker_main(const char *vmm, const char *state)
{
	struct task *t = task_new(NULL, "caretaker");
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, NAME); /* else it is "exe" in a list of processes */
	settings.vmm = vmm_driver(vmm);
	settings.state = state;
	bool ready = settings.vmm && lock_take_as_caretaker(t) == 0;
	if (ready && send(APART_FIRST, "ready", 5, MSG_NOSIGNAL) < 0)
		log_line(t, "the daemon has ended before its caretaker was there");
	if (ready && await_end() && !lock_is_taken_again(apart_maker(APART_FIRST)))
		let_all_go(t);
	talloc_free(t);
	return ready ? 0 : 1;
}
