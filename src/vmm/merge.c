// SPDX-License-Identifier: Apache-2.0
#include "vmm/merge.h"

#include <errno.h>
#include <string.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/json.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/disks.h"
#include "vmm/pace.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

enum {
	/* Between two looks at a job when the guest waits for the next one, or a caller for its end. */
	LOOK_CLOSELY_MS = 2,
	SPRINT_BYTES = 8 << 20 /* what may be left when a job no longer gives way to the guest */
};

/* For what must be done although the task failed or was cancelled. */
static struct task *aside(struct task *t)
{
	return task_new(t, t->name);
}

/* ---- the job, as QEMU has it ---- */

struct job {
	const char *status; /* "": there is none */
	const char *error;  /* NULL: none */
	double done, total;
};

/* query: a cancelled task fails at once. */
static int job_find(struct task *t, struct qmp *q, const char *name, struct job *ret)
{
	struct qmp_call c = { .command = "query-jobs", .query = true };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *j;
	size_t i;
	*ret = (struct job){ .status = "" };
	json_array_foreach (c.ret, i, j) {
		const char *id = json_string_value(json_object_get(j, "id"));
		const char *status = json_string_value(json_object_get(j, "status"));
		if (!id || !status || !streq(id, name))
			continue;
		*ret = (struct job){
			.status = status,
			.error = json_string_value(json_object_get(j, "error")),
			.done = json_number_value(json_object_get(j, "current-progress")),
			.total = json_number_value(json_object_get(j, "total-progress")),
		};
	}
	return 0;
}

static int job_do(struct task *t, struct qmp *q, const char *command, const char *id)
{
	return qmp_do(t, q, command, json_pack("{s:s}", "id", id));
}

static bool is_over(const struct job *j)
{
	return streq(j->status, "concluded") || !*j->status;
}

static bool succeeded(const struct job *j)
{
	return streq(j->status, "concluded") && !j->error;
}

/* Waits for the job's end, however it comes. */
static int job_end(struct task *t, struct qmp *q, const char *name, struct job *ret)
{
	for (int64_t end = clock_ms() + delay_ms(DELAY_MERGE_END); clock_ms() < end;) {
		if (job_find(t, q, name, ret) < 0)
			return -1;
		if (is_over(ret))
			return 0;
		if (task_wait(t, -1, 0, LOOK_CLOSELY_MS) < 0)
			return -1;
	}
	return fail(t, INTERNAL_ERROR,
		    str(t, "QEMU's job %s does not end (%s)", name, ret->status));
}

static int job_failed(struct task *t, const struct job *j)
{
	const char *text = str(t, "merging layers: %s", j->error ? j->error : "QEMU lost the job");
	if (j->error && strstr(j->error, strerror(ENOSPC)))
		return fail(t, SR_BACKEND_FAILURE_44, "", text, "");
	return fail(t, INTERNAL_ERROR, text);
}

/* ---- what is to be done ---- */

struct plan {
	struct task *task;
	const struct vmm_merge *m;
	const json_t *upper, *lower; /* layers; lower NULL: none */
	const json_t *above;         /* the one that stands on upper; NULL: upper is the top */
	const char *top;
	struct pace pace;
	double at_first;    /* bytes that were to be copied; 0: not yet known */
	int64_t sprint_end; /* 0: not yet */
	bool pivots;        /* down from the top */
	bool asked;         /* to complete */
	bool finalized;     /* there is no way back */
	bool over;
};

static const json_t *above(const json_t *layers, const json_t *layer)
{
	size_t i = 0, n = json_array_size(layers);
	while (i < n && json_array_get(layers, i) != layer)
		i++;
	return i + 1 < n ? json_array_get(layers, i + 1) : NULL;
}

static int plan_make(struct task *t, const struct vmm_merge *m, struct plan *p)
{
	*p = (struct plan){ .task = t, .m = m, .upper = disks_layer(m->layers, m->upper) };
	p->lower = disks_layer(m->layers, m->lower);
	if (!p->upper || (!p->lower && (m->down || *m->lower)))
		return fail(t, INTERNAL_ERROR,
			    str(t, "disk %s has no layers %s and %s to merge", m->disk, m->upper,
				m->lower));
	p->above = above(m->layers, p->upper);
	p->top = disks_top_node(t, m->layers);
	p->pivots = m->down && !p->above;
	if (!m->down && !p->above)
		return fail(t, INTERNAL_ERROR,
			    str(t, "a merge up into the top of %s is not durable", m->disk));
	if (p->pivots && !m->pivot)
		return fail(t, INTERNAL_ERROR,
			    str(t, "a merge from the top of %s needs a pivot", m->disk));
	p->pace = pace_begin(m->name, m->haste);
	return 0;
}

/* On descriptors that are lent: no node has such a name. */
static const char *to_write(struct task *t, const struct vmm_merge *m)
{
	return str(t, "job %s", m->name);
}

static const char *to_read(struct task *t, const struct vmm_merge *m)
{
	return str(t, "job %s, behind it", m->name);
}

/* Frozen layers that are written for a while.  One that becomes the top keeps what it is frozen with again
 * later (disks.h). */
static int lend(struct task *t, struct qmp *q, const struct plan *p)
{
	const struct vmm_merge *m = p->m;
	const char *write = to_write(t, m), *read = to_read(t, m);
	if (!m->down)
		return disks_lend(t, q, p->upper, write, read);
	if (disks_lend(t, q, p->lower, write, p->pivots ? m->lower : read) < 0)
		return -1;
	bool is_frozen = p->above && above(m->layers, p->above);
	return is_frozen ? disks_lend(t, q, p->above, write, read) : 0;
}

static json_t *arguments(struct task *t, const struct plan *p)
{
	const struct vmm_merge *m = p->m;
	json_t *a = json_pack("{s:s, s:s, s:s, s:I, s:b, s:b}", "job-id", m->name, "device",
			      m->down ? p->top : disks_side(t, m->upper), "filter-node-name",
			      disks_filter(t, m->upper), "speed", (json_int_t)p->pace.speed,
			      "auto-finalize", m->down && !p->pivots, "auto-dismiss", false);
	if (m->down)
		json_object_set_new(a, "top-node", json_string(m->upper));
	if (p->lower)
		json_object_set_new(a, "base-node", json_string(m->lower));
	if (p->lower && !p->pivots)
		json_object_set_new(a, "backing-file", json_string(m->link));
	return a;
}

/* ---- its run ---- */

/* An active commit must get to its end, whatever the guest writes: it runs as fast as it can when little is
 * left, or when it has copied twice what there was. */
static bool is_near(struct plan *p, const struct job *j)
{
	if (p->at_first == 0)
		p->at_first = j->total;
	return streq(j->status, "ready") ||
	       (j->total > 0 && (j->total - j->done <= SPRINT_BYTES || j->done >= 2 * p->at_first));
}

static int sprint(struct task *t, struct plan *p, const struct job *j)
{
	if (p->sprint_end == 0 && p->pivots && is_near(p, j))
		p->sprint_end = clock_ms() + delay_ms(DELAY_MERGE_SPRINT);
	if (p->sprint_end == 0 || clock_ms() < p->sprint_end)
		return 0;
	return fail(t, INTERNAL_ERROR,
		    str(t, "merging layers: the guest writes to disk %s faster than can be copied",
			p->m->disk));
}

static int on_run(struct task *t, struct qmp *q, struct plan *p, const struct job *j)
{
	if (j->total > 0)
		task_progress(p->task, j->done / j->total);
	return sprint(t, p, j) < 0 ? -1 : pace_step(t, q, &p->pace, p->sprint_end != 0);
}

static int on_ready(struct task *t, struct qmp *q, struct plan *p, const struct job *j)
{
	if (on_run(t, q, p, j) < 0)
		return -1;
	if (p->asked)
		return 0;
	p->asked = true;
	if (job_do(t, q, "job-complete", p->m->name) < 0)
		return -1;
	crash_point_standing();
	return 0;
}

/* All is copied.  Down from the top: the guest waits.  Up: what was copied is in the file, the tables that show
 * it are in QEMU's memory yet.  A loss of power must not leave these on the disk without it, for then the
 * layer would show what was never in it: so the data is made durable first.  (QEMU 10.0 does that itself, as it
 * flushes between refcounts and L2 tables; it is promised nowhere.) */
static int on_pending(struct task *t, struct qmp *q, struct plan *p, const struct job *j)
{
	(void)j;
	int ready = p->pivots ? p->m->pivot(p->task, p->m->arg)
			      : disks_sync(t, p->upper, SYNC_STREAM_DATA);
	if (ready < 0)
		return -1;
	p->finalized = true;
	return job_do(t, q, "job-finalize", p->m->name);
}

static int on_end(struct task *t, struct qmp *q, struct plan *p, const struct job *j)
{
	(void)t, (void)q, (void)j;
	p->over = true;
	return 0;
}

static int step(struct task *t, struct qmp *q, struct plan *p)
{
	static const struct {
		const char *status;
		int (*on)(struct task *, struct qmp *, struct plan *, const struct job *);
	} steps[] = {
		{ "running", on_run },   { "ready", on_ready }, { "pending", on_pending },
		{ "concluded", on_end }, { "", on_end },
	};
	struct job j;
	if (job_find(t, q, p->m->name, &j) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(steps); i++)
		if (streq(j.status, steps[i].status))
			return steps[i].on(t, q, p, &j);
	return 0;
}

/* Until the job is over, has to be ended, or cannot be ended any more.  Each step has a task of its own, so
 * that the answers of hours do not pile up. */
static int follow(struct task *t, struct qmp *q, struct plan *p)
{
	while (!p->over && !p->finalized) {
		struct task *own = aside(t);
		int result = step(own, q, p);
		if (result < 0 && own->code)
			task_fail_params(t, own->code, own->params);
		talloc_free(own);
		if (result < 0)
			return -1;
		if (!p->over &&
		    task_wait(t, -1, 0, p->asked ? LOOK_CLOSELY_MS : delay_ms(DELAY_MERGE_LOOK)) <
			    0)
			return p->finalized ? 0 : -1;
	}
	return 0;
}

/* What an upper layer stands on behind a merge up; below the top of what would have gone. */
static const char *below_upper(const struct vmm_merge *m, bool done)
{
	return done || !m->dropped.n ? m->lower : m->dropped.v[0];
}

/* From here on the upper layer of a merge up can be changed, and then no more: what the job wrote is in the file.
 * The job holds the side until it is dismissed. */
static int open_side(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	crash_point();
	if (!m->down && disks_side_open(t, q, m->upper, below_upper(m, false)) < 0)
		return -1;
	crash_point();
	return 0;
}

static int close_side(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	return m->down ? 0 : disks_side_close(t, q, m->upper, below_upper(m, true));
}

/* What is not lent any more is frozen. */
static int settle_side(struct task *t, struct qmp *q, const struct vmm_merge *m, bool done)
{
	int lent = m->down ? 0 : disks_lent(t, q, to_read(t, m));
	if (lent <= 0)
		return lent;
	if (disks_take_back_one(t, q, to_write(t, m)) < 0)
		return -1;
	return disks_side_settle(t, q, m->upper, below_upper(m, done));
}

static int forget_side(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	return m->down ? 0 : disks_forget(t, q, disks_side(t, m->upper));
}

/* Takes back what was lent.  A lower layer that has become the top keeps its own. */
static int take_back(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	struct task *try = aside(t);
	struct list notes = { 0 };
	const char *top = "";
	list_add(t, &notes, to_write(t, m));
	list_add(t, &notes, to_read(t, m));
	if (m->down && (disks_top(try, q, m->disk, &top) < 0 || !streq(top, m->lower)))
		list_add(t, &notes, m->lower);
	return disks_take_back(t, q, &notes);
}

/* It did not happen: nothing is left of it. */
static void undone(struct task *t, struct qmp *q, const struct vmm_merge *m, bool job_ran)
{
	struct task *own = aside(t);
	if (job_ran)
		job_do(own, q, "job-dismiss", m->name);
	settle_side(own, q, m, false);
	forget_side(own, q, m);
	take_back(own, q, m);
}

static int begin(struct task *t, struct qmp *q, const struct plan *p)
{
	const char *command = p->m->down ? "block-commit" : "block-stream";
	if (task_check(t) < 0)
		return -1;
	if (lend(t, q, p) == 0 && open_side(t, q, p->m) == 0 &&
	    qmp_do(t, q, command, arguments(t, p)) == 0) {
		crash_point();
		return 0;
	}
	undone(t, q, p->m, false);
	return -1;
}

static int end(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	crash_point();
	if (close_side(t, q, m) < 0)
		return -1;
	crash_point();
	return take_back(t, q, m);
}

int merge_run(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	struct plan p;
	if (plan_make(t, m, &p) < 0 || begin(t, q, &p) < 0)
		return -1;

	struct task *own = aside(t);
	struct job j;
	if (follow(t, q, &p) < 0 && !p.finalized)
		job_do(own, q, "job-cancel", m->name);
	task_forgive(own);
	if (job_end(own, q, m->name, &j) < 0)
		return t->code ? -1 : task_fail_params(t, own->code, own->params);
	if (succeeded(&j)) {
		task_forgive(t); /* a cancel came too late */
		return end(t, q, m);
	}
	undone(t, q, m, true);
	return t->code ? -1 : job_failed(t, &j);
}

/* ---- behind it ---- */

static const char *end_of(const struct job *j, bool recorded)
{
	return recorded && streq(j->status, "pending") ? "job-finalize" : "job-cancel";
}

int merge_state(struct task *t, struct qmp *q, const struct vmm_merge *m, bool recorded,
		enum vmm_merge_state *ret)
{
	struct job j;
	if (job_find(t, q, m->name, &j) < 0)
		return -1;
	if (!is_over(&j))
		job_do(aside(t), q, end_of(&j, recorded), m->name); /* it may be over by now */
	if (job_end(t, q, m->name, &j) < 0)
		return -1;
	if (settle_side(t, q, m, succeeded(&j)) < 0 || take_back(t, q, m) < 0)
		return -1;
	*ret = succeeded(&j) ? VMM_MERGE_DONE : VMM_MERGE_NONE;
	return 0;
}

int merge_close(struct task *t, struct qmp *q, const struct vmm_merge *m)
{
	struct job j;
	if (job_find(t, q, m->name, &j) < 0)
		return -1;
	if (*j.status && job_do(t, q, "job-dismiss", m->name) < 0)
		return -1;
	if (forget_side(t, q, m) < 0)
		return -1;
	return disks_close_nodes(t, q, &m->dropped);
}
