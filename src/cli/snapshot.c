// SPDX-License-Identifier: Apache-2.0
/* snapshot.c -- taking snapshots and using them. */
#include "cli/cli.h"

#include "api/message.h"

static command_fn vm_snapshot, vm_snapshot_with_quiesce, vm_checkpoint, snapshot_revert,
	snapshot_clone, snapshot_copy, snapshot_destroy, snapshot_uninstall, snapshot_disk_list,
	snapshot_reset_powerstate;

const struct command commands_snapshot[] = {
	{ "vm-snapshot", vm_snapshot, STANDARD | VM_SELECTORS, "new-name-label",
	  "new-name-description,ignore-vdi-uuids",
	  "Takes a snapshot of a VM: all its disks at one instant, running or not; prints its "
	  "uuid." },
	{ "vm-snapshot-with-quiesce", vm_snapshot_with_quiesce, STANDARD | VM_SELECTORS,
	  "new-name-label", "new-name-description,attempts,fallback",
	  "Takes a snapshot of a running VM while its applications and file systems hold still, by "
	  "the guest's agent; attempts= says how often it is tried, fallback=true takes one that "
	  "is not quiesced where that fails; prints its uuid." },
	{ "vm-checkpoint", vm_checkpoint, STANDARD | VM_SELECTORS, "new-name-label",
	  "new-name-description,quiesce,attempts,fallback",
	  "Takes a snapshot of a running, paused or suspended VM with its memory, quiesced as well "
	  "with quiesce=true; prints its uuid." },
	{ "snapshot-revert", snapshot_revert, STANDARD | EXACT, "",
	  "uuid,snapshot-uuid,keep-current,resume,force",
	  "Brings the VM back to a snapshot; keep-current=true takes a snapshot of what it is now "
	  "first; after one with memory the VM is suspended, with resume=true it runs." },
	{ "snapshot-clone", snapshot_clone, STANDARD, "new-name-label",
	  "uuid,snapshot-uuid,new-name-description",
	  "Makes a template whose disks are layers over those of a snapshot; prints its uuid." },
	{ "snapshot-copy", snapshot_copy, STANDARD, "new-name-label",
	  "uuid,snapshot-uuid,new-name-description,sr-uuid",
	  "Makes a template with full copies of the disks of a snapshot, in the SR that sr-uuid "
	  "names or where each disk is; prints its uuid." },
	{ "snapshot-destroy", snapshot_destroy, 0, "", "uuid,snapshot-uuid,force",
	  "Deletes a snapshot; its disks stay." },
	{ "snapshot-uninstall", snapshot_uninstall, STANDARD, "", "uuid,snapshot-uuid,force",
	  "Deletes a snapshot and its disks; asks first, except with --force." },
	{ "snapshot-reset-powerstate", snapshot_reset_powerstate, 0, "", "uuid,snapshot-uuid,force",
	  "Gives up the memory of a snapshot that has one, so that its disks are left; only with "
	  "--force." },
	{ "snapshot-disk-list", snapshot_disk_list, STANDARD, "",
	  "uuid,snapshot-uuid,vbd-params,vdi-params", "Lists the disks of a snapshot." },
	{ 0 },
};

/* The snapshot that uuid= or snapshot-uuid= names. */
static struct VM_row *wanted(struct cli *c)
{
	const char *param = cli_arg(c, "uuid") ? "uuid" : "snapshot-uuid";
	if (!cli_arg(c, param))
		return cli_fail_ptr(c, "Required parameter not found: snapshot-uuid or uuid.");
	struct VM_row *vm = cli_object(c, VM, param);
	if (!vm || vm->is_a_snapshot)
		return vm;
	return cli_fail_ptr(c,
			    "This operation can only be performed on a VM snapshot. %s is not "
			    "a VM snapshot.",
			    vm->uuid);
}

/* ---- taking ---- */

static int ignored_disks(struct cli *c, struct list *ret)
{
	const char *given = cli_arg(c, "ignore-vdi-uuids");
	struct list uuids = list_split(c->t, given ? given : "", ',');
	for (size_t i = 0; i < uuids.n; i++) {
		struct VDI_row *vdi = db_by_uuid(c->t, VDI, uuids.v[i]);
		if (!vdi)
			return -1;
		list_add(c->t, ret, vdi->row.ref);
	}
	return 0;
}

/* The attempts are told of a snapshot that was to be quiesced, and the pause of a guest that ran. */
static bool is_told(const struct VM_row *snapshot, const char *key)
{
	const struct map *m = &snapshot->snapshot_info;
	if (streq(key, "attempts"))
		return map_get(m, "freeze-ms") || map_get(m, "quiesce-error");
	const char *state = map_get(m, "power-state-at-snapshot");
	return !streq(key, "guest-pause-ms") || (state && streq(state, "Running"));
}

/* "snapshot taken in 340 ms; the guest was paused for 12 ms; crash consistent" */
static void tell_figures(struct cli *c, const char *ref)
{
	static const struct {
		const char *key, *text;
		bool is_size;
	} figures[] = {
		{ "duration-ms", "snapshot taken in %s ms", false },
		{ "guest-pause-ms", "the guest was paused for %s ms", false },
		{ "freeze-ms", "its file systems held still for %s ms", false },
		{ "memory-bytes", "its memory takes %s", true },
		{ "consistency", "%s consistent", false },
		{ "attempts", "attempts: %s", false },
		{ "quiesce-error", "it is not quiesced, for %s", false },
		{ "copy-bytes", "the chain gets long: %s are copied in the background", true },
	};
	struct VM_row *snapshot = db_seek(c->t, VM, ref);
	struct list told = { 0 };
	for (size_t i = 0; snapshot && i < COUNT(figures); i++) {
		const char *value = map_get(&snapshot->snapshot_info, figures[i].key);
		const char *gap = strstr(figures[i].text, "%s");
		if (!value || !is_told(snapshot, figures[i].key))
			continue;
		if (figures[i].is_size)
			value = size_str(c->t, strtoull(value, NULL, 10));
		list_add(c->t, &told,
			 str(c->t, "%.*s%s%s", (int)(gap - figures[i].text), figures[i].text, value,
			     gap + 2));
	}
	if (told.n)
		cli_note(c, "%s", list_join(c->t, &told, "; "));
}

static int show_taken(struct cli *c, const char *ref)
{
	tell_figures(c, ref);
	return show_new_vm(c, ref);
}

static int snapshot_one(struct cli *c, struct VM_row *vm)
{
	struct VM_snapshot a = { .vm = vm->row.ref, .new_name = cli_arg(c, "new-name-label") };
	if (ignored_disks(c, &a.ignore_vdis) < 0 || cli_call(c, VM_snapshot, &a) < 0)
		return -1;
	return show_taken(c, a.result);
}

static int vm_snapshot(struct cli *c)
{
	return for_vms(c, snapshot_one);
}

/* The server says what is wrong with a number. */
static int quiesce_args(struct cli *c, int64_t *attempts, bool *fallback)
{
	const char *given = cli_arg(c, "attempts");
	if (given && (!text_int(given, attempts) || *attempts < 1))
		return fail(c->t, INVALID_VALUE, "attempts", given);
	return cli_bool(c, "fallback", fallback);
}

static int quiesce_one(struct cli *c, struct VM_row *vm)
{
	struct VM_snapshot_with_quiesce a = { .vm = vm->row.ref,
					      .new_name = cli_arg(c, "new-name-label") };
	if (quiesce_args(c, &a.attempts, &a.fallback) < 0 ||
	    cli_call(c, VM_snapshot_with_quiesce, &a) < 0)
		return -1;
	return show_taken(c, a.result);
}

static int vm_snapshot_with_quiesce(struct cli *c)
{
	return for_vms(c, quiesce_one);
}

static int checkpoint_one(struct cli *c, struct VM_row *vm)
{
	struct VM_checkpoint a = { .vm = vm->row.ref, .new_name = cli_arg(c, "new-name-label") };
	if (cli_bool(c, "quiesce", &a.quiesce) < 0 ||
	    quiesce_args(c, &a.attempts, &a.fallback) < 0 || cli_call(c, VM_checkpoint, &a) < 0)
		return -1;
	return show_taken(c, a.result);
}

static int vm_checkpoint(struct cli *c)
{
	return for_vms(c, checkpoint_one);
}

/* ---- using ---- */

static int resume_reverted(struct cli *c, const struct VM_row *vm)
{
	if (vm->power_state != vm_power_state_Suspended)
		return cli_fail(c, "The snapshot has no memory: start the VM with vm-start.");
	return resume_vm(c, &(struct VM_resume){ .vm = vm->row.ref });
}

/* The VM that ran does not run now, and what starts it depends on what it went back to. */
static void tell_state(struct cli *c, const struct VM_row *vm)
{
	bool sleeps = vm->power_state == vm_power_state_Suspended;
	cli_note(c, "the VM is %s now; `xe %s uuid=%s` lets it run",
		 sleeps ? "suspended" : "halted", sleeps ? "vm-resume" : "vm-start", vm->uuid);
}

/* The VM that was reverted; NULL: it has been deleted since.  The snapshot may be gone as well, and named it before. */
static struct VM_row *reverted(struct task *t, const struct VM_row *snapshot)
{
	const struct VM_row *now = db_seek(t, VM, snapshot->row.ref);
	return db_seek(t, VM, (now ? now : snapshot)->snapshot_of);
}

static int snapshot_revert(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	if (!snapshot)
		return -1;
	struct VM_revert a = { .snapshot = snapshot->row.ref };
	int64_t start = clock_ms();
	bool resume = false;
	if (cli_bool(c, "keep-current", &a.keep_current) < 0 ||
	    cli_bool(c, "resume", &resume) < 0 || cli_call(c, VM_revert, &a) < 0)
		return -1;
	long long took_ms = clock_ms() - start;
	struct VM_row *vm = reverted(c->t, snapshot);
	if (!vm)
		return resume ? cli_fail(c, "The VM was reverted, and deleted since.") : 0;
	note_message(c, vm->uuid, VM_SNAPSHOT_REVERTED);
	cli_note(c, "reverted in %lld ms", took_ms);
	if (resume)
		return resume_reverted(c, vm);
	tell_state(c, vm);
	return 0;
}

static int snapshot_clone(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	return snapshot ? clone_vm(c, snapshot) : -1;
}

static int snapshot_copy(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	return snapshot ? copy_vm(c, snapshot) : -1;
}

static int snapshot_destroy(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	if (!snapshot)
		return -1;
	return cli_call(c, VM_destroy, (&(struct VM_destroy){ .self = snapshot->row.ref }));
}

static int snapshot_reset_powerstate(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	return snapshot ? reset_powerstate(c, snapshot) : -1;
}

static int snapshot_uninstall(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	struct doomed d = { 0 };
	if (!snapshot)
		return -1;
	doomed_add(c->t, &d, snapshot, false);
	return doomed_uninstall(c, &d);
}

static int snapshot_disk_list(struct cli *c)
{
	struct VM_row *snapshot = wanted(c);
	return snapshot ? list_disks(c, snapshot) : -1;
}
