// SPDX-License-Identifier: Apache-2.0
/* tasks.c -- rows of class task behind their calls: how long they are kept, and those that clients make. */
#include "api/tasks.h"

#include "api/call.h"
#include "api/masked.h"
#include "api/session.h"
#include "api/settings.h"
#include "base/delay.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/task.h"
#include "db/db.h"

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

/* Until a user has fewer than so many, his oldest one goes: of those that have ended, then of a
 * client's that it has not finished.  What is at work stays. */
static int make_room(struct task *t, const char *owner, int64_t most)
{
	static const struct {
		const char *status, *of_client;
	} order[] = {
		{ "success", "true" },  { "failure", "true" },  { "cancelled", "true" },
		{ "success", "false" }, { "failure", "false" }, { "cancelled", "false" },
		{ "pending", "true" },
	};
	int64_t over = db_number(t, &class_task, "owner", owner, NULL) - most;
	for (size_t i = 0; over > 0 && i < COUNT(order);) {
		const char *ref = db_first(t, &class_task, NULL, "owner", owner, "status",
					   order[i].status, "of_client", order[i].of_client, NULL);
		const struct row *row = ref ? db_seek_row(t, &class_task, ref) : NULL;
		if (row && db_delete(t, row) < 0)
			return -1;
		over -= row != NULL;
		i += row == NULL;
	}
	return 0;
}

int tasks_make_room(struct task *t, const char *owner)
{
	return make_room(t, owner, TASKS_OF_USER_LIMIT - 1);
}

int tasks_collect(struct task *t)
{
	const char *old = time_ago(t, delay_s(DELAY_TASK_KEPT));
	const char *forsaken = time_ago(t, delay_s(DELAY_TASK_FORSAKEN));
	DB_SCOPE(t);
	DB_ALL (t, task, row) {
		bool goes = is_pending(row) ? row->of_client && is_old(row->created, forsaken)
					    : is_old(row->finished, old);
		if (goes && db_delete(t, &row->row) < 0)
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

/* A session that has just ended is nobody's any more; the daemon's own tasks have no owner, but are not nobody's. */
int task_check_owner(struct task *t, const struct task_row *row, const char *permission)
{
	const char *user = session_user(t);
	if (*user && streq(row->owner, user))
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

int task_check_text(struct task *t, const char *field, const char *text)
{
	size_t n = strlen(text);
	if (n <= TASK_TEXT_LIMIT)
		return 0;
	return fail(t, VALUE_NOT_SUPPORTED, field, str(t, "%zu bytes", n),
		    str(t, "a client's task has texts of %d bytes at most", TASK_TEXT_LIMIT));
}

/* There is room for it; NULL: failed. */
static struct task_row *of_client(struct task *t, const char *label)
{
	const char *owner = session_user(t);
	if (tasks_make_room(t, owner) < 0)
		return NULL;
	struct task_row *row = row_new(t, task);
	row->name_label = label;
	row->created = time_now(row);
	row->resident_on = this_host();
	row->type = "<none/>";
	row->of_client = true;
	row->owner = owner;
	return row;
}

int task_create(struct task *t, struct task_create *a)
{
	if (task_check_text(t, "label", a->label) < 0 ||
	    task_check_text(t, "description", a->description) < 0)
		return -1;
	DB_SCOPE(t);
	struct task_row *row = of_client(t, a->label);
	if (!row)
		return -1;
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
	if (!row)
		return NULL;
	row->of_command = true;
	return db_insert(t, &row->row) < 0 || db_commit(t) < 0 ? NULL : row->row.ref;
}

/* Of those behind a call, the call alone tells. */
static int check_of_client(struct task *t, const struct task_row *row)
{
	return row->of_client ? 0 : fail(t, OPERATION_NOT_ALLOWED, "the task is the server's own");
}

static struct task_row *own(struct task *t, const char *ref)
{
	struct task_row *row = db_get(t, task, ref);
	if (!row || task_check_owner(t, row, "task.set/any") < 0 || check_of_client(t, row) < 0)
		return NULL;
	return row;
}

static int put(struct task *t, struct task_row *row)
{
	return db_put(t, &row->row) < 0 ? -1 : db_commit(t);
}

int task_check_adoptable(struct task *t, const struct task_row *row)
{
	if (check_of_client(t, row) < 0)
		return -1;
	return is_pending(row) ? 0 : fail(t, OPERATION_NOT_ALLOWED, "the task has ended already");
}

int task_adopt(struct task *t, const char *ref)
{
	const struct task_row *row = own(t, ref);
	if (!row || task_check_adoptable(t, row) < 0)
		return -1;
	t->adopts = row->row.ref;
	return 0;
}

/* Another request may have got the task meanwhile, whose call tells how it ends. */
static int settle(struct task *t, const char *ref, const struct task *how)
{
	DB_SCOPE(t);
	struct task_row *row = db_get(t, task, ref);
	if (!row || !is_pending(row) || !row->of_client)
		return 0;
	bool failed = how->code != NO_ERROR;
	row->status = failed ? task_status_type_failure : task_status_type_success;
	row->error_info = masked_error_info(t, how);
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
	if (task_check_text(t, "result", a->value) < 0)
		return -1;
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->result = a->value;
	return put(t, row);
}

int task_set_error_info(struct task *t, struct task_set_error_info *a)
{
	if (task_check_text(t, "error_info", list_to_json(t, &a->value)) < 0)
		return -1;
	DB_SCOPE(t);
	struct task_row *row = own(t, a->self);
	if (!row)
		return -1;
	row->error_info = list_copy(row, &a->value);
	return put(t, row);
}
