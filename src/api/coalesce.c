// SPDX-License-Identifier: Apache-2.0
/* coalesce.c -- one thread decides what is due; each step runs on a thread of its own, one at a time on each
 * file system.
 *
 *     kick        puts a volume on the list
 *     worker      reads its tree, takes the cheapest step, claims what that touches, carries it out, and puts
 *                 what is left on the list again; nothing to do: it leaves the list
 *     hold        of others: what is held cannot be claimed; what is claimed is cancelled, and waited for */
#include "api/coalesce.h"

#include <pthread.h>
#include <sys/stat.h>

#include "api/step.h"
#include "api/storage.h"
#include "api/tree.h"
#include "api/undo.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"
#include "db/journal.h"

struct entry {
	struct entry *next;
	const char *sr, *volume;
	int64_t due, failed_ms;
	dev_t device; /* 0: not known yet */
	bool running, again, held;
	struct task *task; /* while a step is at work, since, on these: */
	int64_t began;
	struct list claims;
	const char *vm;    /* in whose process; "" none */
	unsigned gave_way; /* so many steps in a row were cancelled */
	uint64_t backlog;
	char *why;
};

struct hold {
	struct hold *next;
	const char *sr; /* all of it; NULL: these: */
	struct list volumes;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool open, closing;
	bool reclaim, reclaiming; /* there is something to be deleted; a thread is at it */
	int running;
	struct entry *entries;
	struct hold *holds;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* ---- the list; lock held ---- */

static struct entry *find(const char *sr, const char *volume)
{
	struct entry *e = all.entries;
	while (e && !(streq(e->sr, sr) && streq(e->volume, volume)))
		e = e->next;
	return e;
}

static struct entry *add(const char *sr, const char *volume)
{
	struct entry *e = talloc_zero(NULL, struct entry);
	e->sr = talloc_strdup(e, sr);
	e->volume = talloc_strdup(e, volume);
	e->why = talloc_strdup(e, "");
	e->next = all.entries;
	all.entries = e;
	return e;
}

static void drop(struct entry *e)
{
	struct entry **at = &all.entries;
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	talloc_free(e);
}

static void kick(const char *sr, const char *volume)
{
	struct entry *e = find(sr, volume);
	if (!e)
		e = add(sr, volume);
	e->due = 0;
	e->again = true;
	pthread_cond_broadcast(&all.changed);
}

void coalesce_kick(const char *sr, const char *volume)
{
	if (!*volume)
		return;
	pthread_mutex_lock(&all.lock);
	if (all.open)
		kick(sr, volume);
	pthread_mutex_unlock(&all.lock);
}

static void kick_disk(struct task *t, const char *ref)
{
	const struct VDI_row *vdi = db_seek(t, VDI, ref);
	if (vdi)
		coalesce_kick(vdi->SR, vdi->location);
}

void coalesce_kick_vm(struct task *t, const char *ref)
{
	const struct VM_row *vm = db_seek(t, VM, ref);
	DB_EACH (t, VBD, vbd, "VM", ref)
		kick_disk(t, vbd->VDI);
	if (vm)
		kick_disk(t, vm->NVRAM_VDI);
}

void coalesce_kick_sr(struct task *t, const char *sr)
{
	DB_EACH (t, VDI, vdi, "SR", sr)
		if (!*vdi->parent_location && storage_has_layers(t, vdi->location))
			coalesce_kick(sr, vdi->location);
}

void coalesce_reclaim_soon(void)
{
	pthread_mutex_lock(&all.lock);
	all.reclaim = true;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

/* ---- holds; lock held ---- */

static bool meets(const struct list *a, const struct list *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (list_has(b, a->v[i]))
			return true;
	return false;
}

static bool stands_in_way(const struct hold *h, const struct entry *e, const struct list *claims)
{
	return h->sr ? streq(h->sr, e->sr) : meets(&h->volumes, claims);
}

static bool is_held(const struct entry *e, const struct list *claims)
{
	for (const struct hold *h = all.holds; h; h = h->next)
		if (stands_in_way(h, e, claims))
			return true;
	return false;
}

/* Cancels what is at work in the way of the hold, but for what has just begun.  When to look again; 0: nothing
 * is in the way. */
static int64_t interrupt(const struct hold *h)
{
	int64_t again = 0, now = clock_ms();
	for (struct entry *e = all.entries; e; e = e->next) {
		if (!e->task || !stands_in_way(h, e, &e->claims))
			continue;
		int64_t due = e->began + delay_ms(DELAY_MERGE_GRACE);
		if (due <= now) {
			task_interrupt(e->task);
			due = now + delay_ms(DELAY_MERGE_PATIENCE);
		}
		again = !again || due < again ? due : again;
	}
	return again;
}

/* ---- holding ---- */

static int hold_free(struct hold *h)
{
	pthread_mutex_lock(&all.lock);
	struct hold **at = &all.holds;
	while (*at && *at != h)
		at = &(*at)->next;
	if (*at)
		*at = h->next;
	for (struct entry *e = all.entries; e; e = e->next)
		if (e->held) { /* it may be about to say when it looks again */
			e->due = 0;
			e->again = true;
		}
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	return 0;
}

static struct hold *hold_new(const void *ctx)
{
	struct hold *h = talloc_zero(ctx, struct hold);
	pthread_mutex_lock(&all.lock);
	h->next = all.holds;
	all.holds = h;
	pthread_mutex_unlock(&all.lock);
	talloc_set_destructor(h, hold_free);
	return h;
}

/* For a while; 0: nothing is in the way any more. */
static int64_t wait_a_little(const struct hold *h, int64_t end)
{
	pthread_mutex_lock(&all.lock);
	int64_t again = interrupt(h), look = clock_ms() + delay_ms(DELAY_MERGE_TURN_LOOK);
	if (again)
		clock_wait(&all.changed, &all.lock,
			   again < end && again < look ? again
			   : end < look                ? end
						       : look);
	pthread_mutex_unlock(&all.lock);
	return again;
}

static int wait_clear(struct task *t, const struct hold *h, const char *vdi)
{
	int64_t end = clock_ms() + delay_ms(DELAY_MERGE_PATIENCE);
	while (wait_a_little(h, end)) {
		if (task_check(t) < 0)
			return -1;
		if (clock_ms() >= end)
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", vdi, "merge", NULL_REF);
	}
	return 0;
}

/* What a row of the journal says is between two states. */
static struct list torn_by(struct task *t, const struct journal_row *j)
{
	struct list torn = { 0 };
	if (streq(j->verb, "MERGE_SETTLE")) {
		struct step s = step_read(t, j->args.v);
		return tree_claims(t, &s);
	}
	if (streq(j->verb, "LINK_SETTLE"))
		list_add(t, &torn, j->args.v[1]);
	return torn;
}

/* By a merge that could not be settled when it ended: its VM does not answer, or its SR. */
static bool is_unsettled(struct task *t, const struct list *volumes)
{
	for (struct journal_row *j = journal_rows(t, NULL); j->nr; j++) {
		struct list torn = torn_by(t, j);
		if (meets(&torn, volumes))
			return true;
	}
	return false;
}

static int wait_settled(struct task *t, const struct list *volumes, const char *vdi)
{
	int64_t end = clock_ms() + delay_ms(DELAY_MERGE_PATIENCE);
	for (;;) {
		int64_t generation = db_generation();
		if (!is_unsettled(t, volumes))
			return 0;
		int left = (int)(end - clock_ms()), look = delay_ms(DELAY_MERGE_SETTLED_LOOK);
		if (left <= 0)
			return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", vdi, "merge", NULL_REF);
		if (db_wait(t, generation, left < look ? left : look) < 0)
			return -1;
	}
}

static struct list volumes_of(struct task *t, const char *vdi_ref, bool chain)
{
	const struct VDI_row *vdi = db_seek(t, VDI, vdi_ref);
	struct list volumes = { 0 };
	if (vdi && chain)
		return tree_chain(t, vdi->location);
	if (vdi)
		list_add(t, &volumes, vdi->location);
	return volumes;
}

/* Until the volumes that are held are those that the disk has: a merge may have changed them before it
 * was held up. */
static int hold_disk(struct task *t, struct hold *h, const char *vdi, bool chain)
{
	struct list wanted = volumes_of(t, vdi, chain);
	do {
		pthread_mutex_lock(&all.lock);
		h->volumes = list_copy(h, &wanted);
		pthread_mutex_unlock(&all.lock);
		if (wait_clear(t, h, vdi) < 0 || task_check(t) < 0)
			return -1;
		wanted = volumes_of(t, vdi, chain);
	} while (!list_equal(&wanted, &h->volumes));
	return wait_settled(t, &wanted, vdi);
}

int coalesce_hold(struct task *t, const void *ctx, const char *vdi, bool chain)
{
	return hold_disk(t, hold_new(ctx), vdi, chain);
}

int coalesce_hold_vm(struct task *t, const void *ctx, const char *vm_ref, bool chain)
{
	const struct VM_row *vm = db_get(t, VM, vm_ref);
	if (!vm)
		return -1;
	DB_EACH (t, VBD, vbd, "VM", vm_ref)
		if (vbd->type == vbd_type_Disk && coalesce_hold(t, ctx, vbd->VDI, chain) < 0)
			return -1;
	return coalesce_hold(t, ctx, vm->NVRAM_VDI, chain);
}

void coalesce_interrupt_vm(const char *vm)
{
	pthread_mutex_lock(&all.lock);
	for (struct entry *e = all.entries; e; e = e->next)
		if (e->task && streq(e->vm, vm))
			task_interrupt(e->task);
	pthread_mutex_unlock(&all.lock);
}

/* Volumes that no record names. */
static void reclaim(struct task *t)
{
	struct task *own = task_new(t, "reclaim");
	struct list srs = { 0 };
	own->op = STORAGE_RECLAIM;
	for (struct journal_row *j = journal_rows(own, own->op); j->nr; j++)
		list_put(own, &srs, j->args.v[0]);
	undo_run(own);
	for (size_t i = 0; i < srs.n; i++)
		storage_refresh(own, srs.v[i], (const char *[]){ NULL });
	talloc_free(own);
}

int coalesce_hold_sr(struct task *t, const void *ctx, const char *sr)
{
	struct hold *h = hold_new(ctx);
	pthread_mutex_lock(&all.lock);
	h->sr = talloc_strdup(h, sr);
	pthread_mutex_unlock(&all.lock);
	if (wait_clear(t, h, sr) < 0)
		return -1;
	reclaim(t);
	return 0;
}

/* ---- what the SR's record says ---- */

/* Bytes that are to be given back yet in the SR, and what that waits for ("" nothing), on ctx. */
static uint64_t backlog_of(const void *ctx, const char *sr, const char **ret_why)
{
	uint64_t bytes = 0;
	const char *why = "";
	pthread_mutex_lock(&all.lock);
	for (const struct entry *e = all.entries; e; e = e->next) {
		if (!streq(e->sr, sr))
			continue;
		bytes += e->backlog;
		if (*e->why)
			why = e->why;
	}
	*ret_why = talloc_strdup(ctx, why);
	pthread_mutex_unlock(&all.lock);
	return bytes;
}

/* Summed up with the database locked: of two that write, the later one knows more. */
static int write_backlog(struct task *t, const char *sr)
{
	const char *why;
	DB_SCOPE(t);
	uint64_t bytes = backlog_of(t, sr, &why);
	struct SR_row *row = db_seek(t, SR, sr);
	if (!row)
		return 0;
	struct map before = map_copy(t, &row->sm_config);
	map_set(row, &row->sm_config, "backlog", str(t, "%llu", (unsigned long long)bytes));
	map_remove(&row->sm_config, "backlog-waits-for");
	if (*why)
		map_set(row, &row->sm_config, "backlog-waits-for", why);
	if (map_equal(&before, &row->sm_config))
		return 0;
	return db_put(t, &row->row) < 0 ? -1 : db_commit(t);
}

static int publish(struct task *t, const char *sr)
{
	if (write_backlog(t, sr) == 0)
		return 0;
	log_line(t, "backlog not recorded sr=%s error=\"%s\"", sr, task_error(t));
	task_forgive(t);
	return -1;
}

static void note_backlog(struct task *t, struct entry *e, uint64_t bytes, const char *why)
{
	pthread_mutex_lock(&all.lock);
	e->backlog = bytes;
	char *old = e->why;
	e->why = talloc_strdup(e, why);
	talloc_free(old);
	pthread_mutex_unlock(&all.lock);
	publish(t, e->sr);
}

/* ---- a step ---- */

static bool claim(struct entry *e, struct task *t, const struct list *claims, const char *vm)
{
	pthread_mutex_lock(&all.lock);
	bool free = !all.closing && !is_held(e, claims);
	if (free) {
		e->claims = list_copy(e, claims);
		e->vm = talloc_strdup(e, vm);
		e->task = t;
		e->began = clock_ms();
	}
	e->held = !free;
	pthread_mutex_unlock(&all.lock);
	return free;
}

static void unclaim(struct entry *e)
{
	pthread_mutex_lock(&all.lock);
	e->task = NULL;
	e->claims = (struct list){ 0 };
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
}

/* The tree; what it has to give back is recorded before a step is chosen, which takes longer.
 * NULL: there is no such tree, or its storage is not attached. */
static const struct tree *look(struct task *t, struct entry *e)
{
	const struct tree *tree = tree_read(t, e->volume);
	const char *why = t->code == NO_ERROR ? "" : "its storage is not attached";
	task_forgive(t);
	note_backlog(t, e, tree ? tree_backlog(tree) : 0, tree ? e->why : why);
	return tree;
}

static bool same_step(const struct step *a, const struct step *b)
{
	return a->kind == b->kind && a->down == b->down && streq(a->upper, b->upper) &&
	       streq(a->lower, b->lower) && streq(a->vm, b->vm) && streq(a->top, b->top) &&
	       list_equal(&a->dropped, &b->dropped);
}

/* generation: of the database, before the step was chosen. */
static bool is_still_next(struct task *t, const struct entry *e, const struct step *s,
			  int64_t generation)
{
	const char *why;
	if (db_generation() == generation)
		return true;
	const struct tree *tree = tree_read(t, e->volume);
	struct step again = { 0 };
	if (tree)
		again = tree_next(t, tree, &why);
	task_forgive(t);
	return same_step(s, &again);
}

enum outcome { NOTHING, MOVED, DONE, HELD, FAILED };

/* What is to be done is looked at again once it is claimed: it may have changed before.  A tree is on the
 * list by its root, once. */
static enum outcome take_step(struct task *t, struct entry *e, const char **ret_next)
{
	const char *why, *root = tree_root(t, e->volume);
	if (!streq(root, e->volume)) {
		*ret_next = root;
		return MOVED;
	}
	int64_t generation = db_generation();
	const struct tree *tree = look(t, e);
	if (!tree)
		return NOTHING;
	struct step s = tree_next(t, tree, &why);
	note_backlog(t, e, tree_backlog(tree), why);
	if (s.kind == STEP_NONE)
		return NOTHING;
	s.haste = e->gave_way;
	struct list claims = tree_claims(t, &s);
	if (!claim(e, t, &claims, s.vm))
		return HELD;
	enum outcome o = HELD;
	if (is_still_next(t, e, &s, generation))
		o = step_run(t, &s) == 0 ? DONE : FAILED;
	unclaim(e);
	*ret_next = s.kind == STEP_MERGE && s.down ? s.lower : s.upper;
	return o;
}

/* ---- threads ---- */

/* Lock held. */
static void settle_entry(struct entry *e, enum outcome o, const char *next)
{
	int64_t now = clock_ms();
	bool waits = *e->why != 0;
	if (o == FAILED) {
		int64_t most = delay_ms(DELAY_MERGE_FAILED_MOST);
		e->failed_ms = e->failed_ms ? e->failed_ms * 2 : delay_ms(DELAY_MERGE_FAILED);
		e->failed_ms = e->failed_ms < most ? e->failed_ms : most;
	} else if (o == DONE || (o == MOVED && *next)) {
		e->failed_ms = 0;
		kick(e->sr, next);
	}
	e->due = e->again || o == DONE   ? 0
		 : o == FAILED           ? now + e->failed_ms
		 : o == HELD && !e->held ? now + delay_ms(DELAY_MERGE_CANCELLED)
					 : now + delay_ms(DELAY_MERGE_AGAIN);
	if (o == MOVED || (o == NOTHING && !waits && !e->again))
		drop(e);
}

/* A database that fails now may work then. */
static void look_again(const char *sr, const char *volume)
{
	pthread_mutex_lock(&all.lock);
	struct entry *e = find(sr, volume);
	if (!e)
		e = add(sr, volume);
	e->due = clock_ms() + delay_ms(DELAY_MERGE_FAILED);
	pthread_mutex_unlock(&all.lock);
}

static void *work(void *arg)
{
	struct entry *e = arg;
	struct task *t = task_new(NULL, "coalesce");
	const char *sr = talloc_strdup(t, e->sr), *volume = talloc_strdup(t, e->volume);
	const char *next = e->volume;
	enum outcome o = take_step(t, e, &next);
	/* One that was cancelled made way, and goes on. */
	if (o == FAILED && t->code == TASK_CANCELLED) {
		o = HELD;
		e->gave_way++;
	} else if (o == DONE)
		e->gave_way = 0;
	task_forgive(t);
	pthread_mutex_lock(&all.lock);
	e->running = false;
	settle_entry(e, o, next);
	pthread_mutex_unlock(&all.lock);
	if (publish(t, sr) < 0)
		look_again(sr, volume);
	talloc_free(t);
	pthread_mutex_lock(&all.lock);
	all.running--;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	return NULL;
}

static void begin(struct entry *e)
{
	pthread_t thread;
	e->running = true;
	e->again = e->held = false;
	all.running++;
	if (pthread_create(&thread, NULL, work, e) == 0) {
		pthread_detach(thread);
		return;
	}
	all.running--;
	e->running = false;
	e->due = clock_ms() + delay_ms(DELAY_MERGE_FAILED);
}

static bool is_busy(dev_t device)
{
	for (const struct entry *e = all.entries; e; e = e->next)
		if (e->running && e->device == device)
			return true;
	return false;
}

/* An SR that is not attached has none, and its entries wait. */
static dev_t device_of(const char *sr_ref)
{
	struct task *t = task_new(NULL, "coalesce");
	const struct sr *sr = storage_sr(t, sr_ref);
	dev_t device = sr && sr_check_place(t, sr) == 0 ? sr->folder.dev : 0;
	talloc_free(t);
	return device;
}

/* Finds out for one entry that lacks it.  The lock is let go of meanwhile. */
static bool find_device(void)
{
	for (struct entry *e = all.entries; e; e = e->next) {
		if (e->device || e->running || e->due > clock_ms())
			continue;
		e->running = true; /* it stays on the list */
		pthread_mutex_unlock(&all.lock);
		dev_t device = device_of(e->sr);
		pthread_mutex_lock(&all.lock);
		e->running = false;
		e->device = device;
		if (!device)
			e->due = clock_ms() + delay_ms(DELAY_MERGE_AGAIN);
		return true;
	}
	return false;
}

static struct entry *next_due(int64_t *ret_due)
{
	*ret_due = clock_ms() + delay_ms(DELAY_MERGE_IDLE);
	for (struct entry *e = all.entries; e; e = e->next) {
		if (e->running || !e->device || is_busy(e->device))
			continue;
		if (e->due <= clock_ms())
			return e;
		if (e->due < *ret_due)
			*ret_due = e->due;
	}
	return NULL;
}

static void *reclaim_now(void *arg)
{
	(void)arg;
	struct task *t = task_new(NULL, "reclaim");
	reclaim(t);
	talloc_free(t);
	pthread_mutex_lock(&all.lock);
	all.reclaiming = false;
	all.running--;
	pthread_cond_broadcast(&all.changed);
	pthread_mutex_unlock(&all.lock);
	return NULL;
}

/* Deleting volumes may take long, and merges are chosen meanwhile.  False: there is no thread for it now. */
static bool begin_reclaim(void)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, reclaim_now, NULL) != 0)
		return false;
	pthread_detach(thread);
	all.reclaim = false;
	all.reclaiming = true;
	all.running++;
	return true;
}

static bool has_entries(const char *sr)
{
	pthread_mutex_lock(&all.lock);
	const struct entry *e = all.entries;
	while (e && !streq(e->sr, sr))
		e = e->next;
	pthread_mutex_unlock(&all.lock);
	return e;
}

/* What is written of an SR was true when the last daemon wrote it.  Where there is nothing to look at, no worker
 * will say so. */
static void begin_sr(struct task *t, const struct SR_row *sr)
{
	coalesce_kick_sr(t, sr->row.ref);
	if (map_get(&sr->sm_config, "backlog") && !has_entries(sr->row.ref))
		publish(t, sr->row.ref);
}

/* Not before clients are served: it reads the records of all disks. */
static void begin_all(void)
{
	struct task *t = task_new(NULL, "coalesce");
	DB_ALL (t, SR, sr)
		begin_sr(t, sr);
	talloc_free(t);
}

static void *schedule(void *arg)
{
	(void)arg;
	begin_all();
	pthread_mutex_lock(&all.lock);
	while (!all.closing) {
		int64_t due;
		if (all.reclaim && !all.reclaiming && begin_reclaim())
			continue;
		if (find_device())
			continue;
		struct entry *e = next_due(&due);
		if (e)
			begin(e);
		else
			clock_wait(&all.changed, &all.lock, due);
	}
	pthread_mutex_unlock(&all.lock);
	return NULL;
}

/* ---- public ---- */

int coalesce_open(struct task *t)
{
	all.open = true;
	all.closing = false;
	int err = pthread_create(&all.thread, NULL, schedule, NULL);
	return err ? task_fail_errno(t, err, "thread") : 0;
}

void coalesce_close(void)
{
	if (!all.open)
		return;
	pthread_mutex_lock(&all.lock);
	all.open = false;
	all.closing = true;
	for (struct entry *e = all.entries; e; e = e->next)
		if (e->task)
			task_interrupt(e->task);
	pthread_cond_broadcast(&all.changed);
	while (all.running)
		pthread_cond_wait(&all.changed, &all.lock);
	pthread_mutex_unlock(&all.lock);
	pthread_join(all.thread, NULL);
	while (all.entries)
		drop(all.entries);
}
