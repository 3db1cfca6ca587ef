// SPDX-License-Identifier: Apache-2.0
/* sr_check.c -- an SR against its records: what is there, what stands on what, how large it is, and
 * whether each volume's own tables are in order.
 *
 * The row is the truth about who stands on whom, since it was written in the transaction that made it so;
 * the volume is the truth about its size.  A volume is never deleted, nor is anything done that a
 * guest could see.  VMs run on meanwhile: what is told of a disk that an operation is at work on, or that has
 * changed since it was looked at, is that. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/storage.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

enum { LINES_MOST = 2000, CHAIN_MOST = 1000, NAME_SHOWN = 60 };

enum what {
	BUSY,
	WRITTEN,
	NO_VOLUME,
	NO_RECORD,
	ANOTHERS,
	UNSOUND,
	WRONG_LINK,
	CIRCLE,
	NOTHING_BELOW,
	NOTHING_ABOVE,
	WRONG_SIZE,
	LEAKS,
	FAULTS,
	UNREADABLE,
	UNFINISHED,
	JOURNAL,
};

static const struct finding {
	bool problem;
	const char *text, *advice;
} findings[] = {
	[BUSY] = { false, "not checked: an operation is at work on it", "Check again later." },
	[WRITTEN] = { false, "its tables were not checked: a running VM has it open for writing",
		      "Check again when the VM is shut down." },
	[NO_VOLUME] = { true, "there is a record, but no volume",
			"Bring the file back from a copy, or give the disk up with vdi-destroy." },
	[NO_RECORD] = { true, "there is a volume, but no record",
			"sr-scan makes a record for it; if nobody wants it, delete the file." },
	[ANOTHERS] = { true, "a record of another SR names it",
		       "It is left out here.  If it is a copy, delete the file here; if it was "
		       "moved, move it back." },
	[UNSOUND] = { true, "the file is no sound volume", "Bring it back from a copy." },
	[WRONG_LINK] = { true, "its header does not name the volume that it is a layer over",
			 "Check again while no VM runs that uses it." },
	[CIRCLE] = { true, "it is, through others, a layer over itself",
		     "Restore state.db from a copy, or the disk from an export." },
	[NOTHING_BELOW] = { true, "what it is a layer over has no record in this SR",
			    "Bring that volume's file back from a copy, then run sr-scan." },
	[NOTHING_ABOVE] = { true, "a hidden layer that no disk stands on",
			    "Check again when nothing is at work in the SR." },
	[WRONG_SIZE] = { true, "its record tells another size than the volume", "" },
	[LEAKS] = { true, "it takes space that nothing in it uses",
		    "No data are concerned.  Check again while no VM runs that uses it." },
	[FAULTS] = { true, "its tables contradict each other",
		     "That is no proof that data are lost.  Copy the disk with vdi-copy, look at "
		     "the copy, and "
		     "use that instead; do not write to this one." },
	[UNREADABLE] = { true, "its tables could not be read to the end",
			 "Look at the host's storage; save the disk with vdi-copy." },
	[UNFINISHED] = { true, "something was begun that will never be finished", "" },
	[JOURNAL] = { true, "an operation that has ended has left something to be undone",
		      "It is tried every five seconds; the log says what hinders it." },
};

/* What became of a finding. */
enum outcome { LEFT, MENDED };

struct check {
	struct task *task;
	const struct sr *sr;
	const char *sr_ref;
	bool repair;
	size_t steps, step;
	size_t checked, problems, repaired, lines;
	char *report;
};

/* ---- the report ---- */

static void say(struct check *c, enum what what, const char *subject, const char *detail,
		enum outcome outcome)
{
	const struct finding *f = &findings[what];
	c->problems += f->problem;
	c->repaired += outcome == MENDED;
	if (c->lines++ >= LINES_MOST)
		return;
	c->report = talloc_asprintf_append_buffer(c->report, "%s: %s%s%s%s%s%s\n", subject, f->text,
						  *detail ? ": " : "", detail,
						  ends_with(detail, ".") ? "" : ".",
						  *f->advice || outcome == MENDED ? " " : "",
						  outcome == MENDED ? "Repaired." : f->advice);
}

static const char *subject_of(struct task *t, const struct VDI_row *vdi)
{
	return str(t, "volume %s (VDI %s, %s)", vdi->location, vdi->uuid,
		   text_plain(t, vdi->name_label, NAME_SHOWN));
}

/* ---- is anybody at work? ---- */

static bool is_mentioned(struct task *t, const char *id)
{
	for (struct journal_row *j = journal_rows(t, NULL); j->nr; j++)
		if (list_has(&j->args, id))
			return true;
	return false;
}

/* By another operation than this one. */
static bool is_busy(struct task *t, const struct VDI_row *vdi)
{
	for (size_t i = 0; i < vdi->current_operations.n; i++)
		if (!streq(vdi->current_operations.v[i].key, t->ref))
			return true;
	return false;
}

/* The disk is still as it was read, and nobody is at it. */
static bool is_quiet(struct task *t, const struct VDI_row *then)
{
	const struct VDI_row *now = db_seek(t, VDI, then->row.ref);
	return now && !is_busy(t, now) && streq(now->location, then->location) &&
	       streq(now->parent_location, then->parent_location) &&
	       !is_mentioned(t, then->location);
}

static bool is_written(struct task *t, const struct VDI_row *vdi)
{
	if (storage_has_layers(t, vdi->location))
		return false;
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref)
		if (vbd->currently_attached && vbd->mode == vbd_mode_RW && guest_alive(vbd->VM))
			return true;
	DB_EACH (t, VM, vm, "NVRAM_VDI", vdi->row.ref)
		if (guest_alive(vm->row.ref))
			return true;
	return false;
}

/* ---- taking a volume out of use ---- */

static bool is_open(struct task *t, const struct VDI_row *vdi)
{
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref)
		if (vbd->currently_attached && guest_alive(vbd->VM))
			return true;
	DB_EACH (t, VM, vm, "NVRAM_VDI", vdi->row.ref)
		if (guest_alive(vm->row.ref))
			return true;
	return false;
}

/* Nobody is waited for: what cannot be repaired now can be another time. */
static int mark(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VDI_row *vdi = db_get(t, VDI, ref);
	if (!vdi || operation_mark_vdi(t, vdi, vdi_operations_blocked) <= 0)
		return -1;
	return db_commit(t);
}

/* Marks the disk, and all whose layers are over it, as busy: no VM that starts gets the volume.  -1: one has
 * it, or somebody is at work on one of them. */
static int take(struct task *t, const struct VDI_row *vdi, size_t *budget)
{
	if (!(*budget)-- || mark(t, vdi->row.ref) < 0 || is_open(t, vdi))
		return -1;
	DB_EACH (t, VDI, over, "parent_location", vdi->location)
		if (take(t, over, budget) < 0)
			return -1;
	return 0;
}

typedef int mend_fn(struct task *, const struct check *, const struct VDI_row *);

/* Has mend() mended it?  What hinders it is logged. */
static enum outcome try_to_mend(struct task *t, const struct check *c, const struct VDI_row *vdi,
				mend_fn *mend)
{
	size_t budget = CHAIN_MOST;
	if (!c->repair)
		return LEFT;
	t->cancellable = false;
	bool mended = take(t, vdi, &budget) == 0 && is_quiet(t, vdi) && mend(t, c, vdi) == 0;
	t->cancellable = true;
	if (t->code != NO_ERROR)
		log_line(t, "not repaired vdi=%s error=\"%s\"", vdi->uuid, task_error(t));
	task_forgive(t);
	if (operation_end(t) < 0)
		task_forgive(t); /* it is tried again with the journal */
	return mended ? MENDED : LEFT;
}

/* ---- one volume ---- */

static int mend_link(struct task *t, const struct check *c, const struct VDI_row *vdi)
{
	struct volume below;
	const char *parent = vdi->parent_location;
	if (!c->sr->layout->relink ||
	    (*parent && c->sr->layout->stat(t, c->sr, parent, &below) < 0))
		return -1;
	return c->sr->layout->relink(t, c->sr, vdi->location, parent);
}

static void check_link(struct task *t, struct check *c, const struct VDI_row *vdi,
		       const struct volume *v)
{
	const char *named = *v->parent ? v->parent : "nothing";
	const char *meant = *vdi->parent_location ? vdi->parent_location : "nothing";
	if (!streq(named, meant))
		say(c, WRONG_LINK, subject_of(t, vdi), str(t, "%s instead of %s", named, meant),
		    try_to_mend(t, c, vdi, mend_link));
}

/* Each volume tells of what is directly below it, and of a circle that it is in itself. */
static void check_below(struct task *t, struct check *c, const struct VDI_row *vdi)
{
	const struct VDI_row *at = vdi;
	for (size_t n = 0; *at->parent_location && n < CHAIN_MOST; n++) {
		const struct VDI_row *below = storage_owner(t, at->parent_location);
		bool found = below && streq(below->SR, c->sr_ref);
		if (!found && n == 0)
			say(c, NOTHING_BELOW, subject_of(t, vdi), vdi->parent_location, LEFT);
		if (!found)
			return;
		if (streq(below->row.ref, vdi->row.ref)) {
			say(c, CIRCLE, subject_of(t, vdi), "", LEFT);
			return;
		}
		at = below;
	}
}

/* It becomes a disk, for its owner to look at, or to delete. */
static int mend_lost_layer(struct task *t, const struct check *c, const struct VDI_row *vdi)
{
	(void)c;
	DB_SCOPE(t);
	struct VDI_row *row = db_get(t, VDI, vdi->row.ref);
	if (!row || row->managed || storage_has_layers(t, row->location))
		return -1;
	row->managed = true;
	row->type = vdi_type_user;
	return db_put(t, &row->row) < 0 ? -1 : db_commit(t);
}

static void check_above(struct task *t, struct check *c, const struct VDI_row *vdi)
{
	if (!vdi->managed && !storage_has_layers(t, vdi->location))
		say(c, NOTHING_ABOVE, subject_of(t, vdi), "",
		    try_to_mend(t, c, vdi, mend_lost_layer));
}

static void check_size(struct task *t, struct check *c, const struct VDI_row *vdi,
		       const struct volume *v)
{
	if (vdi->virtual_size == (int64_t)v->virtual_size)
		return;
	bool mended = c->repair && storage_write_size(t, vdi->row.ref, v) == 0;
	task_forgive(t);
	say(c, WRONG_SIZE, subject_of(t, vdi),
	    str(t, "%lld bytes instead of %llu", (long long)vdi->virtual_size,
		(unsigned long long)v->virtual_size),
	    mended ? MENDED : LEFT);
}

static int mend_leaks(struct task *t, const struct check *c, const struct VDI_row *vdi)
{
	struct sr_check r;
	if (c->sr->layout->check(t, c->sr, vdi->location, true, &r) < 0)
		return -1;
	return r.verdict == SR_SOUND ? 0 : -1;
}

static int check_tables(struct task *t, struct check *c, const struct VDI_row *vdi)
{
	struct sr_check r;
	if (!c->sr->layout->check)
		return 0;
	if (is_written(t, vdi)) {
		say(c, WRITTEN, subject_of(t, vdi), "", LEFT);
		return 0;
	}
	if (c->sr->layout->check(t, c->sr, vdi->location, false, &r) < 0) {
		if (t->code == TASK_CANCELLED)
			return -1;
		r = (struct sr_check){ .verdict = SR_UNREADABLE, .text = task_error(t) };
		task_forgive(t);
	}
	const char *subject = subject_of(t, vdi);
	const char *leaks = str(t, "%llu clusters", (unsigned long long)r.leaks);
	const char *known = r.text && *r.text ? text_plain(t, r.text, 300) : NULL;
	const char *faults = str(t, "%llu places%s%s", (unsigned long long)r.faults,
				 known ? ", one of them: " : "", known ? known : "");
	if (r.verdict != SR_SOUND && !is_quiet(t, vdi))
		say(c, BUSY, subject, "", LEFT);
	else if (r.verdict == SR_BUSY)
		say(c, WRITTEN, subject, "", LEFT);
	else if (r.verdict == SR_LEAKS)
		say(c, LEAKS, subject, leaks, try_to_mend(t, c, vdi, mend_leaks));
	else if (r.verdict == SR_FAULTS)
		say(c, FAULTS, subject, faults, LEFT);
	else if (r.verdict == SR_UNREADABLE)
		say(c, UNREADABLE, subject, text_plain(t, r.text, 300), LEFT);
	return 0;
}

/* The failure is the storage's word on the volume. */
static void say_unusable(struct task *t, struct check *c, const struct VDI_row *vdi)
{
	bool gone = t->code == VDI_MISSING;
	const char *why = gone ? "" : text_plain(t, t->params[1] ? t->params[1] : "", 300);
	task_forgive(t);
	if (!is_quiet(t, vdi))
		say(c, BUSY, subject_of(t, vdi), "", LEFT);
	else
		say(c, gone ? NO_VOLUME : UNSOUND, subject_of(t, vdi), why, LEFT);
}

/* -1: the whole check is to end. */
static int check_record(struct task *t, struct check *c, const char *ref)
{
	const struct VDI_row *vdi = db_seek(t, VDI, ref);
	struct volume v;
	if (!vdi)
		return 0;
	c->checked++;
	if (!is_quiet(t, vdi)) {
		say(c, BUSY, subject_of(t, vdi), "", LEFT);
		return 0;
	}
	if (c->sr->layout->stat(t, c->sr, vdi->location, &v) < 0) {
		say_unusable(t, c, vdi);
		return 0;
	}
	/* Until here nothing was believed: an operation may have come between row and storage. */
	if (!is_quiet(t, vdi)) {
		say(c, BUSY, subject_of(t, vdi), "", LEFT);
		return 0;
	}
	check_link(t, c, vdi, &v);
	check_below(t, c, vdi);
	check_above(t, c, vdi);
	check_size(t, c, vdi, &v);
	return check_tables(t, c, vdi);
}

/* ---- what has no record ---- */

static bool has_record(struct task *t, const struct check *c, const char *id)
{
	const struct VDI_row *owner = storage_owner(t, id);
	return owner && streq(owner->SR, c->sr_ref);
}

static int check_id(struct task *t, struct check *c, const char *id)
{
	struct volume v;
	if (has_record(t, c, id) || is_mentioned(t, id))
		return 0;
	bool sound = c->sr->layout->stat(t, c->sr, id, &v) == 0, gone = t->code == VDI_MISSING;
	const char *why = sound || gone || !t->params[1] ? "" : text_plain(t, t->params[1], 300);
	task_forgive(t);
	/* An operation may have come between the list and the record. */
	if (gone || is_mentioned(t, id) || has_record(t, c, id))
		return 0;
	c->checked++;
	const struct VDI_row *owner = storage_owner(t, id);
	const struct SR_row *other = owner ? db_seek(t, SR, owner->SR) : NULL;
	const char *whose = other ? str(t, "SR %s (%s)", other->uuid,
					text_plain(t, other->name_label, NAME_SHOWN))
				  : "";
	say(c,
	    other   ? ANOTHERS
	    : sound ? NO_RECORD
		    : UNSOUND,
	    str(t, "volume %s", id), other ? whose : why, LEFT);
	return 0;
}

static int check_unfinished(struct task *t, struct check *c, const char *id)
{
	const struct VDI_row *owner = storage_owner(t, id);
	if (is_mentioned(t, id) || (owner && owner->current_operations.n))
		return 0;
	bool mended = c->repair && c->sr->layout->discard(t, c->sr, id) == 0;
	task_forgive(t);
	say(c, UNFINISHED, str(t, "unfinished volume %s", id), "", mended ? MENDED : LEFT);
	return 0;
}

/* ---- the journal ---- */

/* The operation's name is that of its task, with a + behind for deeds to come. */
static bool is_running(struct task *t, const char *op)
{
	const struct task_row *row = db_seek(t, task, talloc_strndup(t, op, strcspn(op, "+")));
	return streq(op, STORAGE_RECLAIM) || (row && row->status == task_status_type_pending);
}

static bool concerns(struct task *t, const struct check *c, const struct journal_row *j)
{
	for (size_t i = 0; i < j->args.n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, j->args.v[i]);
		if (streq(j->args.v[i], c->sr_ref) || (vdi && streq(vdi->SR, c->sr_ref)))
			return true;
	}
	return false;
}

static bool is_there(struct task *t, const struct journal_row *row)
{
	for (struct journal_row *j = journal_rows(t, row->op); j->nr; j++)
		if (streq(j->nr, row->nr))
			return true;
	return false;
}

/* An operation may have ended between a look at its row and one at its task; its rows go first. */
static void check_journal(struct task *t, struct check *c)
{
	for (struct journal_row *j = journal_rows(t, NULL); j->nr; j++)
		if (!is_running(t, j->op) && concerns(t, c, j) && is_there(t, j))
			say(c, JOURNAL, str(t, "journal row %s", j->nr),
			    str(t, "%s %s", j->verb, list_join(t, &j->args, " ")), LEFT);
}

/* ---- all of it ---- */

typedef int step_fn(struct task *, struct check *, const char *);

/* Each step has memory of its own: there may be very many. */
static int each(struct check *c, const struct list *all, step_fn *step)
{
	for (size_t i = 0; i < all->n; i++) {
		struct task *part = task_part(c->task);
		int result = task_check(part) < 0 ? -1 : step(part, c, all->v[i]);
		if (result < 0)
			task_fail_params(c->task, part->code, part->params);
		talloc_free(part);
		if (result < 0)
			return -1;
		task_progress(c->task, (double)++c->step / (double)c->steps);
	}
	return 0;
}

static struct list records(struct task *t, const char *sr_ref)
{
	struct list refs = { 0 };
	struct task *part = task_part(t);
	DB_EACH (part, VDI, vdi, "SR", sr_ref)
		list_add(t, &refs, vdi->row.ref);
	talloc_free(part);
	return refs;
}

int SR_check(struct task *t, struct SR_check *a)
{
	struct check c = {
		.task = t,
		.sr = storage_sr(t, a->sr),
		.sr_ref = a->sr,
		.repair = !a->dry_run,
		.report = talloc_strdup(t, ""),
	};
	struct list ids = { 0 }, unfinished = { 0 };
	/* A merge's header is ahead of its row for a moment. */
	if (!c.sr || coalesce_hold_sr(t, t->scope, a->sr) < 0)
		return -1;
	if (c.sr->layout->list && c.sr->layout->list(t, c.sr, &ids, &unfinished) < 0)
		return -1;
	struct list refs = records(t, a->sr);
	c.steps = refs.n + ids.n + unfinished.n;
	if (each(&c, &refs, check_record) < 0 || each(&c, &ids, check_id) < 0 ||
	    each(&c, &unfinished, check_unfinished) < 0)
		return -1;
	check_journal(t, &c);
	if (c.repair)
		storage_refresh(t, a->sr, (const char *[]){ NULL });
	if (c.lines > LINES_MOST)
		c.report = talloc_asprintf_append(c.report, "and %zu more\n", c.lines - LINES_MOST);
	a->result =
		talloc_asprintf_append(c.report, "%zu volumes checked, %zu problems, %zu repaired",
				       c.checked, c.problems, c.repaired);
	log_line(t, "sr checked sr=%s volumes=%zu problems=%zu repaired=%zu", c.sr->uuid, c.checked,
		 c.problems, c.repaired);
	return 0;
}
