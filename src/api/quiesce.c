// SPDX-License-Identifier: Apache-2.0
#include "api/quiesce.h"

#include <pthread.h>
#include <stdio.h>

#include "api/agents.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/base64.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"
#include "vmm/freeze.h"

enum {
	ATTEMPTS = 3,
	MOST_ATTEMPTS = 100,
	TIMEOUT_S = 60,
	MOST_TIMEOUT_S = 600,
	HOOK_SLACK_MS = 1500, /* the guest's clock tells whole seconds */
	HOOK_BYTES = 512,
};

/* What hooks/fsfreeze-hook leaves in the guest: "SECONDS NAME...", when, and which applications held still. */
#define HOOK_SAID "/run/stillframe-freeze"

/* An attempt, from before it marks disks until it is undone, or its call ends. */
struct waiting {
	struct waiting *next;
	const struct task *task;
	const char *vm;
	struct freeze *freeze; /* waits for the guest; NULL: does not */
	int64_t since;         /* when that began, on clock_ms() */
};

static struct {
	pthread_mutex_t lock; /* nothing else is locked under it */
	struct waiting *first;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- how ---- */

static int number(struct task *t, const struct VM_row *vm, const char *key, int otherwise, int most,
		  int *ret)
{
	const char *given = map_get(&vm->other_config, key);
	int64_t n = otherwise;
	if (given && (!text_int(given, &n) || n < 1 || n > most))
		return fail(t, INVALID_VALUE, str(t, "other-config:%s", key), given);
	*ret = (int)n;
	return 0;
}

int quiesce_config(struct task *t, const struct VM_row *vm, int64_t attempts, bool fallback,
		   struct quiesce *ret)
{
	int timeout_s;
	const char *mounts = map_get(&vm->other_config, "quiesce-mounts");
	*ret = (struct quiesce){ .vm = vm->row.ref, .fallback = fallback, .why = "" };
	ret->mounts = list_split(t, mounts ? mounts : "", ',');
	if (attempts < 0 || attempts > MOST_ATTEMPTS)
		return fail(t, INVALID_VALUE, "attempts", str(t, "%lld", (long long)attempts));
	if (number(t, vm, "quiesce-attempts", ATTEMPTS, MOST_ATTEMPTS, &ret->attempts) < 0 ||
	    number(t, vm, "quiesce-timeout", TIMEOUT_S, MOST_TIMEOUT_S, &timeout_s) < 0)
		return -1;
	ret->timeout_ms = timeout_s * delay_ms(DELAY_SETTING_SECOND);
	if (attempts)
		ret->attempts = (int)attempts;
	return 0;
}

static const struct VM_guest_metrics_row *metrics_of(struct task *t, const struct VM_row *vm)
{
	return db_seek(t, VM_guest_metrics, vm->guest_metrics);
}

static bool can(const struct VM_guest_metrics_row *m, const char *feature)
{
	const char *value = map_get(&m->other, feature);
	return value && streq(value, "1");
}

int quiesce_check(struct task *t, const struct VM_row *vm)
{
	const struct VM_guest_metrics_row *m = metrics_of(t, vm);
	const char *why = !m || !m->live ? "no guest agent is heard"
			  : !can(m, "feature-snapshot") && !can(m, "feature-quiesce")
				  ? "the guest agent cannot freeze, or may not"
				  : NULL;
	return why ? fail(t, VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED, vm->row.ref, why) : 0;
}

static bool is_windows(struct task *t, const char *vm_ref)
{
	const struct VM_row *vm = db_seek(t, VM, vm_ref);
	const struct VM_guest_metrics_row *m = vm ? metrics_of(t, vm) : NULL;
	const char *distro = m ? map_get(&m->os_version, "distro") : NULL;
	return distro && streq(distro, "windows");
}

/* ---- errors ---- */

/* What the agent says on Windows (qemu-ga: qga/vss-win32/requester.cpp, qga/commands-win32.c). */
static const struct {
	const char *words;
	enum code code;
	bool windows; /* only there it means that */
} vss[] = {
	{ "VSS failed to initialize", XEN_VSS_REQ_ERROR_INIT_FAILED },
	{ "failed to create event", XEN_VSS_REQ_ERROR_INIT_FAILED },
	{ "failed to create VSS backup components", XEN_VSS_REQ_ERROR_INIT_FAILED },
	{ "failed to initialize for backup", XEN_VSS_REQ_ERROR_INIT_FAILED },
	{ "failed to set backup", XEN_VSS_REQ_ERROR_INIT_FAILED },
	{ "qga-vss.dll", XEN_VSS_REQ_ERROR_PROV_NOT_LOADED },
	{ "unexpected error in VSS provider", XEN_VSS_REQ_ERROR_PROV_NOT_LOADED },
	{ "failed to find first volume", XEN_VSS_REQ_ERROR_NO_VOLUMES_SUPPORTED },
	{ "no file system to freeze", XEN_VSS_REQ_ERROR_NO_VOLUMES_SUPPORTED, true },
	{ "failed to start snapshot set", XEN_VSS_REQ_ERROR_START_SNAPSHOT_SET_FAILED },
	{ "to snapshot set", XEN_VSS_REQ_ERROR_ADDING_VOLUME_TO_SNAPSET_FAILED },
	{ "failed to gather writer", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to get writer", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to get identity of writer", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to get file counts", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to get component", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to add component", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "failed to prepare for backup", XEN_VSS_REQ_ERROR_PREPARING_WRITERS },
	{ "snapshot set", XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT },
	{ "DoSnapshotSet", XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT },
	{ "couldn't receive Frozen event", XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT },
	{ "couldn't hold writes", XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT },
	{ "failed to complete backup", XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT },
};

static enum code code_of(struct task *t, const struct quiesce *q, const char *why)
{
	for (size_t i = 0; i < COUNT(vss); i++)
		if (strstr(why, vss[i].words) && (!vss[i].windows || is_windows(t, q->vm)))
			return vss[i].code;
	return VM_SNAPSHOT_WITH_QUIESCE_FAILED;
}

/* Says what the freezer failed with as XenAPI does; silent: what it means that the agent gave no answer. */
static int failed(struct task *t, const struct quiesce *q, enum freeze_failure how,
		  enum code silent)
{
	if (t->code != INTERNAL_ERROR)
		return -1;
	const char *why = t->params[0];
	task_forgive(t);
	return fail(t,
		    how == FREEZE_NO_ANSWER ? silent
		    : how == FREEZE_LOST    ? VM_SNAPSHOT_WITH_QUIESCE_FAILED
					    : code_of(t, q, why),
		    q->vm, why);
}

static bool is_worth_another(enum code code)
{
	bool of_vss = false;
	for (size_t i = 0; i < COUNT(vss); i++)
		of_vss |= code == vss[i].code;
	return of_vss || code == VM_SNAPSHOT_WITH_QUIESCE_FAILED ||
	       code == VM_SNAPSHOT_WITH_QUIESCE_TIMEOUT ||
	       code == VM_SNAPSHOT_WITH_QUIESCE_PLUGIN_DEOS_NOT_RESPOND ||
	       code == OTHER_OPERATION_IN_PROGRESS;
}

/* ---- making way ---- */

static int delist(struct waiting *w)
{
	pthread_mutex_lock(&all.lock);
	struct waiting **at = &all.first;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	pthread_mutex_unlock(&all.lock);
	return 0;
}

static struct waiting *enlist(struct task *t, const char *vm)
{
	struct waiting *w = talloc(t->scope, struct waiting);
	pthread_mutex_lock(&all.lock);
	*w = (struct waiting){ .next = all.first, .task = t, .vm = talloc_strdup(w, vm) };
	all.first = w;
	pthread_mutex_unlock(&all.lock);
	talloc_set_destructor(w, delist);
	return w;
}

static void set_waiting(struct quiesce *q, struct freeze *f)
{
	pthread_mutex_lock(&all.lock);
	q->waiting->freeze = f;
	q->waiting->since = clock_ms();
	pthread_mutex_unlock(&all.lock);
}

/* Is there one of another call?  One that waits for long is interrupted, and there until it is undone. */
static bool interrupt(const struct task *t, const char *vm)
{
	bool found = false;
	pthread_mutex_lock(&all.lock);
	for (struct waiting *w = all.first; w; w = w->next) {
		if (w->task == t || !streq(w->vm, vm))
			continue;
		found = true;
		if (w->freeze && clock_ms() - w->since > delay_ms(DELAY_QUIESCE_LONG))
			freeze_interrupt(w->freeze);
	}
	pthread_mutex_unlock(&all.lock);
	return found;
}

int quiesce_make_way(struct task *t, const char *vm)
{
	int64_t until = clock_ms() + delay_ms(DELAY_QUIESCE_WAY);
	while (interrupt(t, vm) && clock_ms() < until)
		if (task_wait(t, -1, 0, delay_ms(DELAY_QUIESCE_WAY_LOOK)) < 0)
			return -1;
	return 0;
}

/* ---- attempts ---- */

/* In the call's own row, for who watches. */
static void show_attempt(struct task *t, const struct quiesce *q, const char *why)
{
	struct task *own = task_new(t, t->name);
	{
		DB_SCOPE(own);
		struct task_row *row = db_seek(own, task, t->ref);
		if (row) {
			map_set(row, &row->other_config, str(own, "attempt-%d", q->attempt), why);
			if (db_put(own, &row->row) == 0)
				db_commit(own);
		}
	}
	talloc_free(own);
}

/* What an attempt failed with. */
struct failure {
	enum code code;
	const char **params;
	bool undone;
};

/* Those of quiescing say in their second parameter why; it goes into what all failed with. */
static void note_failure(struct task *t, struct quiesce *q, struct failure *ret)
{
	bool is_ours = t->code != OTHER_OPERATION_IN_PROGRESS;
	const char *why = is_ours ? t->params[1] : task_error(t);
	*ret = (struct failure){ .code = t->code, .params = t->params };
	q->why = str(t, "%s%sattempt %d: %s", q->why, *q->why ? "; " : "", q->attempt, why);
	if (is_ours)
		ret->params[1] = q->why;
	log_line(t, "quiescing failed vm=%s attempt=%d error=\"%s\"", q->vm, q->attempt, why);
	show_attempt(t, q, why);
	task_forgive(t);
}

static int pause_before(struct task *t, int attempt)
{
	int ms = delay_ms(DELAY_QUIESCE_PAUSE);
	while (--attempt > 1 && ms < delay_ms(DELAY_QUIESCE_PAUSE_MOST))
		ms *= 2;
	return task_wait(t, -1, 0, ms) < 0 ? -1 : 0;
}

/* Nothing is frozen yet. */
static int begin(struct task *t, struct quiesce *q)
{
	enum freeze_failure how = FREEZE_NO_ANSWER;
	if (q->off)
		return 0;
	q->agent = agent_take(t, q->vm, delay_ms(DELAY_QUIESCE_PORT));
	if (q->agent)
		q->freeze = freeze_open(t, agent_descriptor(q->agent), &how);
	if (!q->freeze)
		return failed(t, q, how, VM_SNAPSHOT_WITH_QUIESCE_PLUGIN_DEOS_NOT_RESPOND);
	return undo_guest_thaw(t, q->vm);
}

static void end(struct quiesce *q)
{
	TALLOC_FREE(q->freeze); /* it has the port as well */
	TALLOC_FREE(q->agent);
}

/* 1: it failed, and may be made again. */
static int one(struct task *t, struct quiesce *q, const char *mark,
	       int (*attempt)(struct task *, void *arg), void *arg, struct failure *ret)
{
	t->cancellable = true;
	q->scope = talloc_new(t->scope);
	int result = begin(t, q);
	if (result == 0) {
		q->waiting = enlist(t, q->vm); /* who waits for the agent keeps nobody waiting */
		result = attempt(t, arg);
	}
	end(q);
	if (result == 0 || q->off || !is_worth_another(t->code))
		return result;
	note_failure(t, q, ret);
	ret->undone = undo_back(t, mark) == 0;
	t->cancellable = true;
	TALLOC_FREE(q->scope);
	TALLOC_FREE(q->waiting);
	return 1;
}

int quiesce_run(struct task *t, struct quiesce *q, int (*attempt)(struct task *, void *arg),
		void *arg)
{
	const char *mark = undo_mark(t);
	for (q->attempt = 1;; q->attempt++) {
		struct failure f = { 0 };
		int result = one(t, q, mark, attempt, arg, &f);
		if (result <= 0)
			return result;
		bool last = q->attempt >= q->attempts;
		if (!f.undone || (last && !q->fallback))
			return task_fail_params(t, f.code, f.params);
		q->off = last;
		q->attempt -= last;
		if (!last && pause_before(t, q->attempt + 1) < 0)
			return -1;
	}
}

/* ---- the steps ---- */

int quiesce_freeze(struct task *t, struct quiesce *q)
{
	enum freeze_failure how;
	if (!q || q->off)
		return 0;
	q->begun = clock_ms();
	set_waiting(q, q->freeze);
	int frozen = freeze_guest(t, q->freeze, &q->mounts, q->timeout_ms, &how);
	set_waiting(q, NULL);
	if (frozen == 0)
		return 0;
	return failed(t, q, how, VM_SNAPSHOT_WITH_QUIESCE_TIMEOUT);
}

static json_t *ask(struct task *t, struct agent *a, const char *command, json_t *arguments)
{
	struct agent_call c = { .command = command,
				.arguments = arguments,
				.ms = delay_ms(DELAY_QUIESCE_ASK) };
	return agent_call(t, a, &c) < 0 ? NULL : c.ret;
}

/* What the hook left; "" where there is none, or the agent reads no files. */
static const char *hook_said(struct task *t, struct agent *a)
{
	size_t n;
	json_t *file = ask(t, a, "guest-file-open",
			   json_pack("{s:s, s:s}", "path", HOOK_SAID, "mode", "r"));
	if (!file)
		return "";
	json_t *read = ask(t, a, "guest-file-read",
			   json_pack("{s:O, s:i}", "handle", file, "count", HOOK_BYTES));
	ask(t, a, "guest-file-close", json_pack("{s:O}", "handle", file));
	const char *text = json_string_value(json_object_get(read, "buf-b64"));
	unsigned char *bytes = text ? base64_bytes(t, text, &n) : NULL;
	return bytes ? text_plain(t, talloc_strndup(t, (char *)bytes, n), HOOK_BYTES) : "";
}

/* Was it this freeze of which the hook speaks?  Both times are of the guest's clock. */
static bool hook_ran(struct task *t, struct agent *a, int64_t begun)
{
	long long seconds;
	int names = 0;
	const char *said = hook_said(t, a);
	if (sscanf(said, "%lld %n", &seconds, &names) != 1 || !names || !said[names])
		return false;
	json_t *now = ask(t, a, "guest-get-time", NULL);
	int64_t ago_ms = json_integer_value(now) / 1000000 - (int64_t)seconds * 1000;
	return now && ago_ms < clock_ms() - begun + HOOK_SLACK_MS;
}

/* On Windows it is the applications that VSS asks. */
static const char *consistency(struct task *t, const struct quiesce *q)
{
	struct task *own = task_part(t);
	bool applications = is_windows(own, q->vm) || hook_ran(own, q->agent, q->begun);
	talloc_free(own);
	return applications ? "application" : "filesystem";
}

int quiesce_thaw(struct task *t, struct quiesce *q)
{
	enum freeze_failure how;
	if (!q || q->off)
		return 0;
	if (freeze_thaw(t, q->freeze, &q->freeze_ms, &how) < 0)
		return failed(t, q, how, VM_SNAPSHOT_WITH_QUIESCE_TIMEOUT);
	freeze_close(q->freeze);
	q->consistency = consistency(t, q);
	return 0;
}

/* ---- thawing ---- */

bool quiesce_holds(struct task *t, const struct VM_row *vm)
{
	return vm->frozen || journal_mentions(t, "GUEST_THAW", 0, vm->row.ref);
}

static int set_frozen(struct task *t, const char *ref, bool frozen)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm || vm->frozen == frozen)
		return 0;
	vm->frozen = frozen;
	return db_put(t, &vm->row) < 0 ? -1 : db_commit(t);
}

static int stands_still(struct task *t, const char *ref, bool *ret)
{
	enum vmm_status status;
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_get(hold, ref);
	int asked = vmm ? settings.vmm->status(t, vmm, &status) : 0;
	talloc_free(hold);
	*ret = vmm && asked == 0 && (status == VMM_PAUSED || status == VMM_DEAD);
	return asked;
}

static int thaw_now(struct task *t, const char *ref)
{
	struct agent *a = agent_take(t, ref, delay_ms(DELAY_QUIESCE_RELEASE));
	int thawed = a ? freeze_release(t, a) : -1;
	talloc_free(a);
	return thawed;
}

int quiesce_thaw_vm(struct task *t, const char *ref)
{
	bool still;
	if (!guest_alive(ref))
		return 0;
	if (stands_still(t, ref, &still) < 0 || (!still && thaw_now(t, ref) < 0)) {
		if (guest_alive(ref))
			return -1;
		task_forgive(t);
	}
	return set_frozen(t, ref, still);
}

int quiesce_release(struct task *t, const char *ref)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	return vm && vm->frozen ? quiesce_thaw_vm(t, ref) : 0;
}

int quiesce_release_later(struct task *t, const char *ref)
{
	const char *op = undo_later(t);
	int written = undo_guest_thaw(t, ref);
	undo_now(t, op);
	return written;
}
