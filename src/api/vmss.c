// SPDX-License-Identifier: Apache-2.0
#include "api/vmss.h"

#include <stdlib.h>

#include "api/call.h"
#include "api/message.h"
#include "api/quiesce.h"
#include "api/record.h"
#include "api/session.h"
#include "api/uninstall.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

enum { RETAINED_MOST = 10 };

/* ---- what one may be ---- */

static bool is_among(const char *words, const char *value)
{
	size_t n = strcspn(value, " ");
	for (const char *at = words; n && !value[n] && (at = strstr(at, value)); at += n)
		if ((at == words || at[-1] == ' ') && (at[n] == 0 || at[n] == ' '))
			return true;
	return false;
}

static bool is_quarter(struct task *t, const char *value)
{
	(void)t;
	return is_among("0 15 30 45", value);
}

static bool is_hour(struct task *t, const char *value)
{
	int64_t hour;
	(void)t;
	return text_int(value, &hour) && hour >= 0 && hour <= 23;
}

static bool are_days(struct task *t, const char *value)
{
	struct list days = list_split(t, value, ',');
	for (size_t i = 0; i < days.n; i++)
		if (!is_among("Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
			      days.v[i]))
			return false;
	return days.n;
}

static const struct {
	const char *key;
	enum vmss_frequency seldomer; /* or this often: the least that has the key */
	const char *usual;
	bool (*fits)(struct task *, const char *value);
} keys[] = {
	{ "min", vmss_frequency_hourly, "0", is_quarter },
	{ "hour", vmss_frequency_daily, "0", is_hour },
	{ "days", vmss_frequency_weekly, "Monday", are_days },
};

static int check_schedule(struct task *t, struct VMSS_row *v)
{
	struct map schedule = { 0 };
	for (size_t i = 0; i < COUNT(keys); i++) {
		const char *given = map_get(&v->schedule, keys[i].key);
		if (v->frequency < keys[i].seldomer)
			continue;
		if (given && !keys[i].fits(t, given))
			return fail(t, INVALID_VALUE, str(t, "schedule:%s", keys[i].key), given);
		map_set(v, &schedule, keys[i].key, given ? given : keys[i].usual);
	}
	v->schedule = schedule;
	return 0;
}

int vmss_check(struct task *t, struct VMSS_row *v)
{
	if (v->enabled)
		return fail(t, VALUE_NOT_SUPPORTED, "enabled", "true",
			    "nothing runs schedules by itself yet: leave it false, and have the "
			    "snapshots taken with VMSS.snapshot_now (xe vmss-snapshot-now), from "
			    "cron for instance");
	if (v->retained_snapshots < 1 || v->retained_snapshots > RETAINED_MOST)
		return fail(t, INVALID_VALUE, "retained_snapshots",
			    str(t, "%lld", (long long)v->retained_snapshots));
	return check_schedule(t, v);
}

static int check_kind(struct task *t, const struct VMSS_row *v, const struct VM_row *vm)
{
	return v->type == vmss_type_snapshot_with_quiesce ? quiesce_check(t, vm) : 0;
}

int vmss_check_type(struct task *t, struct VMSS_row *v)
{
	DB_EACH (t, VM, vm, "snapshot_schedule", v->row.ref)
		if (check_kind(t, v, vm) < 0)
			return -1;
	return 0;
}

int vmss_check_member(struct task *t, const struct VM_row *vm)
{
	if (vm->is_a_template)
		return fail(t, VM_IS_TEMPLATE, vm->row.ref, "set_snapshot_schedule");
	const struct VMSS_row *v = db_seek(t, VMSS, vm->snapshot_schedule);
	return v ? check_kind(t, v, vm) : 0;
}

/* ---- its record ---- */

int VMSS_create(struct task *t, struct VMSS_create *a)
{
	DB_SCOPE(t);
	struct VMSS_row *v = row_new(t, VMSS);
	v->name_label = a->name_label;
	v->enabled = a->enabled;
	v->type = a->type;
	v->retained_snapshots = a->retained_snapshots;
	v->frequency = a->frequency;
	v->schedule = map_copy(v, &a->schedule);
	if (vmss_check(t, v) < 0 || db_insert(t, &v->row) < 0)
		return -1;
	a->result = v->row.ref;
	return db_commit(t);
}

int VMSS_destroy(struct task *t, struct VMSS_destroy *a)
{
	DB_SCOPE(t);
	struct VMSS_row *v = db_get(t, VMSS, a->self);
	if (!v)
		return -1;
	if (*db_find(t, &class_VM, "snapshot_schedule", a->self))
		return fail(t, VMSS_HAS_VM);
	return db_delete(t, &v->row) < 0 ? -1 : db_commit(t);
}

/* Each key is there already. */
int VMSS_add_to_schedule(struct task *t, struct VMSS_add_to_schedule *a)
{
	DB_SCOPE(t);
	struct VMSS_row *v = db_get(t, VMSS, a->self);
	if (!v)
		return -1;
	map_set(t, &v->schedule, a->key, a->value);
	if (record_set(t, &class_VMSS, a->self, "schedule", map_to_json(t, &v->schedule)) < 0)
		return -1;
	return db_commit(t);
}

/* ---- a run ---- */

struct run {
	const struct VMSS_row *vmss;
	const char *session;
	char *told; /* a line for each VM */
};

/* For one of the calls that a run is made of: they are the schedule's, and each has an error of its own. */
static struct task *part(struct task *t, const struct run *r)
{
	struct task *own = task_part(t);
	own->session = r->session;
	return own;
}

/* NULL: failed. */
static const char *take(struct task *t, const struct run *r, const struct VM_row *vm)
{
	const char *name = str(t, "%s %s", r->vmss->name_label, time_now(t));
	struct VM_snapshot s = { .vm = vm->row.ref, .new_name = name };
	struct VM_checkpoint c = { .vm = vm->row.ref, .new_name = name };
	struct VM_snapshot_with_quiesce q = { .vm = vm->row.ref, .new_name = name };
	switch (r->vmss->type) {
	case vmss_type_checkpoint:
		return call(t, VM_checkpoint, &c) < 0 ? NULL : c.result;
	case vmss_type_snapshot_with_quiesce:
		return call(t, VM_snapshot_with_quiesce, &q) < 0 ? NULL : q.result;
	default:
		return call(t, VM_snapshot, &s) < 0 ? NULL : s.result;
	}
}

static int uninstall(struct task *t, const struct VM_row *snapshot)
{
	struct doomed d = { 0 };
	doomed_add(t, &d, snapshot, false);
	doomed_spare(t, &d);
	return doomed_destroy(t, &d);
}

/* The oldest beyond those that are kept; in the order of their making, which is the database's. */
static int retain(struct task *t, const struct run *r, const struct VM_row *vm)
{
	int64_t n = 0;
	DB_EACH (t, VM, snap, "snapshot_of", vm->row.ref)
		n += snap->is_vmss_snapshot;
	DB_EACH (t, VM, old, "snapshot_of", vm->row.ref)
		if (old->is_vmss_snapshot && n-- > r->vmss->retained_snapshots &&
		    uninstall(t, old) < 0)
			return -1;
	return 0;
}

/* As XenServer's clients read it: CODE and parameters as a list of Python's. */
static const char *error_list(struct task *t)
{
	char *s = str(t, "['%s'", code_rows[t->code].name);
	for (size_t i = 0; t->params[i]; i++)
		s = talloc_asprintf_append(s, ",'%s'", t->params[i]);
	return talloc_asprintf_append(s, "]");
}

static void tell(struct task *t, struct run *r, const struct VM_row *vm, struct task *how)
{
	bool failed = how->code != NO_ERROR;
	const char *line =
		failed ? str(t, "VM:%s UUID:%s Error:%s", vm->name_label, vm->uuid, error_list(how))
		       : str(t, "VM:%s UUID:%s", vm->name_label, vm->uuid);
	r->told = talloc_asprintf_append(r->told, "%s\n", line);
	if (message_tell(t, failed ? "VMSS_SNAPSHOT_FAILED" : "VMSS_SNAPSHOT_SUCCEEDED",
			 failed ? 3 : 5, cls_VMSS, r->vmss->uuid, line) == 0)
		return;
	log_line(t, "message not written error=\"%s\"", task_error(t));
	task_forgive(t);
}

/* One that fails is told of, and the next one has its turn. */
static void run_vm(struct task *t, struct run *r, const struct VM_row *vm)
{
	struct task *own = part(t, r);
	if (take(own, r, vm))
		retain(own, r, vm);
	tell(t, r, vm, own);
	talloc_free(own);
}

/* The VM when its turn has come, and the schedule as it is by then: those before it may have taken
 * long.  NULL: it has gone, or has another schedule. */
static const struct VM_row *look_again(struct task *t, struct run *r, const char *ref)
{
	const struct VM_row *vm = db_seek(t, VM, ref);
	const struct VMSS_row *vmss = db_seek(t, VMSS, r->vmss->row.ref);
	if (!vm || !vmss || !streq(vm->snapshot_schedule, vmss->row.ref))
		return NULL;
	r->vmss = vmss;
	return vm;
}

static int note_run(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VMSS_row *v = db_get(t, VMSS, ref);
	if (!v)
		return -1;
	v->last_run_time = time_now(v);
	return db_put(t, &v->row) < 0 ? -1 : db_commit(t);
}

static int run(struct task *t, struct run *r)
{
	struct list vms = db_refs(t, &class_VM, "snapshot_schedule", r->vmss->row.ref);
	for (size_t i = 0; i < vms.n; i++) {
		if (task_check(t) < 0)
			return -1;
		const struct VM_row *vm = look_again(t, r, vms.v[i]);
		if (vm)
			run_vm(t, r, vm);
		task_progress(t, (double)(i + 1) / (double)vms.n);
	}
	return note_run(t, r->vmss->row.ref);
}

int VMSS_snapshot_now(struct task *t, struct VMSS_snapshot_now *a)
{
	const struct VMSS_row *v = db_get(t, VMSS, a->vmss);
	struct run r = { .vmss = v, .told = talloc_strdup(t, "") };
	r.session = v ? session_of_schedules(t) : NULL;
	if (!r.session)
		return -1;
	int result = run(t, &r);
	session_end(t, r.session);
	a->result = r.told;
	return result;
}
