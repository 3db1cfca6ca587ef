// SPDX-License-Identifier: Apache-2.0
/* tasks.c -- rows of class task behind their calls: how long they are kept, and those that clients make. */
#include "api/tasks.h"

#include "api/call.h"
#include "api/session.h"
#include "api/settings.h"
#include "base/delay.h"
#include "base/task.h"
#include "db/db.h"

enum { KEPT = 200 }; /* finished ones */

static bool is_pending(const struct task_row *row)
{
	return row->status == task_status_type_pending ||
	       row->status == task_status_type_cancelling;
}

/* ---- keeping ---- */

static bool is_old(const char *time, const char *limit)
{
	return strcmp(time, limit) < 0;
}

/* Oldest first: those that have ended are counted from the newest. */
int tasks_collect(struct task *t)
{
	const char *old = time_ago(t, delay_s(DELAY_TASK_KEPT));
	const char *forsaken = time_ago(t, delay_s(DELAY_TASK_FORSAKEN));
	DB_SCOPE(t);
	struct row **rows = db_find(t, &class_task, NULL, NULL);
	size_t n = 0, newer = 0;
	while (rows[n])
		n++;
	while (n-- > 0) {
		const struct task_row *row = (struct task_row *)rows[n];
		bool pending = is_pending(row);
		bool goes = pending ? row->of_client && is_old(row->created, forsaken)
				    : newer >= KEPT || is_old(row->finished, old);
		newer += !pending;
		if (goes && db_delete(t, rows[n]) < 0)
			return -1;
	}
	return db_commit(t);
}

static int forget(struct task *t, struct task_row *row)
{
	static const char why[] = "the server was restarted; the operation was undone";
	row->status = task_status_type_failure;
	row->finished = time_now(row);
	list_add(row, &row->error_info, code_rows[INTERNAL_ERROR].name);
	list_add(row, &row->error_info, why);
	return row->doomed ? db_delete(t, &row->row) : db_put(t, &row->row);
}

static int forget_all(struct task *t)
{
	DB_SCOPE(t);
	DB_ALL (t, task, row)
		if (row->of_command ? db_delete(t, &row->row) < 0
				    : is_pending(row) && !row->of_client && forget(t, row) < 0)
			return -1;
	return db_commit(t);
}

int tasks_open(struct task *t)
{
	return forget_all(t) < 0 ? -1 : tasks_collect(t);
}

int task_check_owner(struct task *t, const struct task_row *row, const char *permission)
{
	if (streq(row->owner, session_user(t)))
		return 0;
	return role_check(t, role_pool_operator, permission);
}

int task_destroy(struct task *t, struct task_destroy *a)
{
	DB_SCOPE(t);
	struct task_row *row = db_get(t, task, a->self);
	if (!row || task_check_owner(t, row, "task.destroy/any") < 0)
		return -1;
	row->doomed = is_pending(row) && !row->of_client;
	if ((row->doomed ? db_put(t, &row->row) : db_delete(t, &row->row)) < 0)
		return -1;
	return db_commit(t);
}

/* ---- of clients ---- */

static struct task_row *of_client(struct task *t, const char *label)
{
	struct task_row *row = row_new(t, task);
	row->name_label = label;
	row->created = time_now(row);
	row->resident_on = this_host();
	row->type = "<none/>";
	row->of_client = true;
	row->owner = session_user(t);
	return row;
}

int task_create(struct task *t, struct task_create *a)
{
	DB_SCOPE(t);
	struct task_row *row = of_client(t, a->label);
	row->name_description = a->description;
	if (db_insert(t, &row->row) < 0)
		return -1;
	a->result = row->row.ref;
	return db_commit(t);
}

const char *task_for_command(struct task *t, const char *name)
{
	DB_SCOPE(t);
	struct task_row *row = of_client(t, name);
	row->of_command = true;
	return db_insert(t, &row->row) < 0 || db_commit(t) < 0 ? NULL : row->row.ref;
}

/* Of those behind a call, the call alone tells. */
static struct task_row *own(struct task *t, const char *ref)
{
	struct task_row *row = db_get(t, task, ref);
	if (row && !row->of_client)
		return fail_ptr(t, OPERATION_NOT_ALLOWED, "the task is the server's own");
	return row && task_check_owner(t, row, "task.set/any") == 0 ? row : NULL;
}

static int put(struct task *t, struct task_row *row)
{
	return db_put(t, &row->row) < 0 ? -1 : db_commit(t);
}

int task_adopt(struct task *t, const char *ref)
{
	const struct task_row *row = own(t, ref);
	if (row && !is_pending(row))
		return fail(t, OPERATION_NOT_ALLOWED, "the task has ended already");
	if (row)
		t->adopts = row->row.ref;
	return row ? 0 : -1;
}

struct list task_error_info(const void *ctx, const struct task *t)
{
	struct list info = { 0 };
	if (t->code != NO_ERROR)
		list_add(ctx, &info, code_rows[t->code].name);
	for (size_t i = 0; t->code != NO_ERROR && t->params[i]; i++)
		list_add(ctx, &info, t->params[i]);
	return info;
}

static int settle(struct task *t, const char *ref, const struct task *how)
{
	DB_SCOPE(t);
	struct task_row *row = db_get(t, task, ref);
	if (!row || !is_pending(row))
		return 0;
	bool failed = how->code != NO_ERROR;
	row->status = failed ? task_status_type_failure : task_status_type_success;
	row->error_info = task_error_info(row, how);
	row->finished = time_now(row);
	row->progress = 1;
	return put(t, row);
}

void task_settle(struct task *t)
{
	if (!*t->adopts)
		return;
	struct task *aside = task_new(t, t->name);
	settle(aside, t->adopts, t);
	t->adopts = "";
	talloc_free(aside);
}

int task_set_status(struct task *t, struct task_set_status *a)
{
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->status = a->value;
	row->finished = is_pending(row) ? TIME_NEVER : time_now(row);
	return put(t, row);
}

int task_set_progress(struct task *t, struct task_set_progress *a)
{
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->progress = a->value;
	return put(t, row);
}

int task_set_result(struct task *t, struct task_set_result *a)
{
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->result = a->value;
	return put(t, row);
}

int task_set_error_info(struct task *t, struct task_set_error_info *a)
{
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->error_info = list_copy(row, &a->value);
	return put(t, row);
}
