// SPDX-License-Identifier: Apache-2.0
/* vm_revert.c -- a VM goes back to a snapshot: disks and configuration.
 *
 * Each disk that is the VM's own keeps its uuid and gets a new volume, a layer over the snapshot's; the old volume is
 * deleted afterwards, or hidden while others are layers over it:
 *
 *     before   S (snapshot's) <- T (the VM's)      after   S <- N (the VM's)      T deleted
 *
 * A disk that the VM has no more, or that another VM has, too, is left as it is, and a new one takes its place.  Disks that
 * were attached since are detached, never deleted.  The message VM_SNAPSHOT_REVERTED names both.
 *
 *     make        a volume for each disk, memory verified, while the VM      undo VOL_DELETE
 *                 still runs: what is missing is found missing here
 *     stand       the guest stands still: nothing that it does from          undo VM_RESUME
 *                 here on would count
 *     record      one transaction: all records, and what is set aside
 *     end         the process of the VM that was                             undo GUEST_KILL
 *
 * So a revert that fails leaves a VM that runs on, and what died half-way is before or after the record.
 *
 * What keep_current sets aside costs nothing: the volumes that the VM leaves behind become a snapshot's, and so does the
 * memory of a suspended VM.  Only a disk that the revert does not put back gets an overlay, as in any snapshot. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/device.h"
#include "api/firmware.h"
#include "api/guest_metrics.h"
#include "api/guests.h"
#include "api/message.h"
#include "api/metadata.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/revert.h"
#include "api/settings.h"
#include "api/sizes.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vm_copy.h"
#include "api/vm_snapshot.h"
#include "base/crash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* What a revert leaves as it is. */
static const char *const kept[] = {
	"uuid",
	"suspend_VDI",
	"NVRAM_VDI",
	"NVRAM_open",
	"frozen",
	"power_state",
	"parent",
	"blobs",
	"current_operations",
	"metrics",
	"guest_metrics",
	"resident_on",
	"domid",
	"protection_policy",
	"snapshot_schedule",
	"scheduled_to_be_resident_on",
	"tags",
	"affinity",
	"groups",
	"VUSBs",
	"VGPUs",
	"attached_PCIs",
	"is_a_snapshot",
	"snapshot_of",
	"snapshot_time",
	"snapshot_info",
	"snapshot_metadata",
	"is_default_template",
	NULL,
};

/* A store that was made since the snapshot stays, where that has none. */
static int replace_store(struct task *t, struct revert *r, struct VM_row *vm)
{
	const char *store = map_get(&r->devices.vdis, r->devices.from->NVRAM_VDI);
	if (!store)
		vm->NVRAM_stale = true;
	else if (!streq(store, vm->NVRAM_VDI) && firmware_release(t, vm) < 0)
		return -1;
	if (store)
		vm->NVRAM_VDI = store;
	return 0;
}

/* ---- the VM ---- */

static int replace_metrics(struct task *t, struct VM_row *vm, const struct VM_row *snap)
{
	struct VM_metrics_row *old = db_seek(t, VM_metrics, vm->metrics);
	struct VM_metrics_row *from = db_seek(t, VM_metrics, snap->metrics);
	struct row *copy = from ? model_copy(t, &from->row) : &row_new(t, VM_metrics)->row;
	if ((old && db_delete(t, &old->row) < 0) || db_insert(t, copy) < 0)
		return -1;
	vm->metrics = copy->ref;
	return 0;
}

/* What the fields of then refer to may have gone since. */
static int drop_dangling(struct task *t, struct row *r)
{
	for (const struct field *f = r->class->fields; f->name; f++) {
		const struct class *of =
			f->kind == REF && field_is_stored(f) ? model_class(f->of) : NULL;
		const char *ref = of ? field_text(t, r, f) : NULL_REF;
		if (!ref_is_null(ref) && !db_seek_row(t, of, ref) &&
		    field_parse(t, r, f, NULL_REF) < 0)
			return -1;
	}
	return 0;
}

/* "NAME (uuid ...), ..." */
static const char *names(struct task *t, const struct list *vdis)
{
	struct list all = { 0 };
	for (size_t i = 0; i < vdis->n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, vdis->v[i]);
		if (vdi)
			list_add(t, &all, str(t, "%s (uuid %s)", vdi->name_label, vdi->uuid));
	}
	return list_join(t, &all, ", ");
}

/* The positions at which the snapshot had disks that it has lost. */
static const char *lost(struct task *t, const char *snapshot)
{
	struct list all = { 0 };
	DB_EACH (t, VBD, vbd, "VM", snapshot)
		if (vbd->type == vbd_type_Disk && vbd->empty)
			list_add(t, &all, vbd->userdevice);
	return list_join(t, &all, ", ");
}

static int tell(struct task *t, const struct revert *r, const struct VM_row *vm)
{
	const struct VM_row *snap = r->devices.from;
	char *body = str(t, "VM '%s' (uuid: %s) reverted to snapshot: %s (uuid %s)", vm->name_label,
			 vm->uuid, snap->name_label, snap->uuid);
	if (r->detached.n)
		body = talloc_asprintf_append(body,
					      "; detached, since the snapshot does not have them, "
					      "and left as they are: disks %s",
					      names(t, &r->detached));
	if (r->replaced.n)
		body = talloc_asprintf_append(body,
					      "; left as they are, since they are not the VM's "
					      "alone any more, with new "
					      "disks in their place: disks %s",
					      names(t, &r->replaced));
	const char *missing = lost(t, r->snapshot);
	if (*missing)
		body = talloc_asprintf_append(body,
					      "; without the disks at positions %s, whose storage "
					      "was forgotten",
					      missing);
	bool whole = !r->detached.n && !r->replaced.n && !*missing;
	return message_tell(t, VM_SNAPSHOT_REVERTED, whole ? MESSAGE_INFORMATION : MESSAGE_WARNING,
			    cls_VM, vm->uuid, body);
}

/* ---- the record ---- */

/* The VM's state becomes a snapshot; a suspended one's memory goes along. */
static int set_aside(struct task *t, struct revert *r)
{
	const struct VM_row *vm = db_get(t, VM, r->vm);
	if (!vm)
		return -1;
	struct VDI_row *memory = db_seek(t, VDI, vm->suspend_VDI);
	if (memory) {
		memory->is_a_snapshot = true;
		memory->snapshot_time = time_now(memory);
		r->kept->memory = memory;
		r->kept->number = vm->domid;
		r->kept->memory_bytes = (uint64_t)memory->physical_utilisation;
	}
	return vm_snapshot_store(t, r->vm, r->kept);
}

/* The VM is what it would be without its process, and without its memory. */
static int halt(struct task *t, const struct revert *r, struct VM_row *vm)
{
	if (r->kept && r->kept->memory)
		vm->suspend_VDI = NULL_REF;
	return suspend_image_drop(t, vm) < 0 ? -1 : guest_mark_halted(t, vm);
}

static int restore(struct task *t, struct revert *r, struct VM_row *vm)
{
	const struct VM_row *snap = r->devices.from;
	if (metadata_read(t, snap->snapshot_metadata, &vm->row, kept) < 0 ||
	    drop_dangling(t, &vm->row) < 0 || replace_metrics(t, vm, snap) < 0 ||
	    guest_metrics_copy(t, vm, snap) < 0 || replace_store(t, r, vm) < 0)
		return -1;
	vm->generation_id = vm_generation_id(t);
	vm->parent = snap->row.ref;
	vm->ha_always_run = false;
	vm->power_state = r->memory ? vm_power_state_Suspended : vm_power_state_Halted;
	if (!r->memory)
		return 0;
	vm->suspend_VDI = r->memory->row.ref;
	return db_insert(t, &r->memory->row);
}

/* The VM stays busy until its process has ended, whoever sees to that. */
static int mark_ending(struct task *t, const char *ref)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	map_set(vm, &vm->current_operations, t->ref,
		enum_text("vm_operations", vm_operations_reverting));
	if (undo_operation_end(t, "VM", ref) < 0 || undo_guest_kill(t, ref) < 0)
		return -1;
	return db_put(t, &vm->row);
}

static int record(struct task *t, struct revert *r)
{
	DB_SCOPE(t);
	if (r->kept && set_aside(t, r) < 0)
		return -1;
	struct VM_row *vm = db_get(t, VM, r->vm), *snap = db_get(t, VM, r->snapshot);
	if (!vm || !snap)
		return -1;
	r->ends = vm_has_process(vm);
	r->devices = (struct vm_copy){ .from = snap, .snapshot = true, .memory = r->memory };
	if (plan_check(t, r->disks) < 0 || halt(t, r, vm) < 0 || revert_disks(t, r) < 0 ||
	    revert_devices(t, r, vm) < 0 || restore(t, r, vm) < 0 || tell(t, r, vm) < 0 ||
	    db_put(t, &vm->row) < 0 || db_put(t, &snap->row) < 0 || operation_end(t) < 0 ||
	    (r->ends && mark_ending(t, r->vm) < 0))
		return -1;
	return db_commit(t);
}

/* ---- a VM that was destroyed ---- */

/* The VM was destroyed: it is made again with its old uuid, and all its snapshots are its own again. */
static const char *revive_vm(struct task *t, const struct VM_row *snap)
{
	DB_SCOPE(t);
	struct VM_row *vm = row_new(t, VM);
	struct VM_metrics_row *metrics = row_new(t, VM_metrics);
	static const char *const none[] = { "current_operations",
					    "metrics",
					    "guest_metrics",
					    "parent",
					    "resident_on",
					    "domid",
					    "power_state",
					    "suspend_VDI",
					    "NVRAM_VDI",
					    "NVRAM_open",
					    "frozen",
					    "blobs",
					    NULL };
	if (metadata_read(t, snap->snapshot_metadata, &vm->row, none) < 0 ||
	    drop_dangling(t, &vm->row) < 0)
		return NULL;
	vm->metrics = metrics->row.ref;
	vm->domid = -1;
	if (*db_find(t, &class_VM, "uuid", vm->uuid))
		return fail_ptr(t, DB_UNIQUENESS_CONSTRAINT_VIOLATION, "VM", "uuid", vm->uuid);
	if (undo_record_delete(t, "VM_metrics", metrics->row.ref) < 0 ||
	    undo_record_delete(t, "VM", vm->row.ref) < 0 || db_insert(t, &metrics->row) < 0 ||
	    db_insert(t, &vm->row) < 0)
		return NULL;
	DB_EACH (t, VM, sibling, "snapshot_of", snap->snapshot_of) {
		sibling->snapshot_of = vm->row.ref;
		if (db_put(t, &sibling->row) < 0)
			return NULL;
	}
	return db_commit(t) < 0 ? NULL : vm->row.ref;
}

/* ---- memory ---- */

/* Before anything is stopped: is all of it what was written, and can this host load it? */
static int verify_memory(struct task *t, const struct VM_row *snap)
{
	struct saved s;
	if (saved_open(t, snap, &s) < 0)
		return -1;
	int result = image_verify(t, s.image);
	fd_close(&s.fd);
	return result;
}

/* ret NULL: the snapshot has none. */
static int take_memory(struct task *t, const struct VM_row *snap, struct VDI_row **ret)
{
	*ret = NULL;
	if (snap->power_state != vm_power_state_Suspended)
		return 0;
	if (vm_check_resume(t, snap) < 0 || verify_memory(t, snap) < 0)
		return -1;
	*ret = suspend_image_share(t, snap->suspend_VDI, false);
	return *ret ? 0 : -1;
}

/* ---- what is set aside ---- */

/* The snapshot of the VM as it is.  The disks that the revert puts back leave their volumes to it. */
static int begin_kept(struct task *t, struct revert *r, const struct VM_row *snap)
{
	struct list none = { 0 };
	const struct VM_row *vm = db_get(t, VM, r->vm);
	struct taken *k = talloc_zero(t, struct taken);
	k->name = str(t, "before revert to %s", snap->name_label);
	k->begin = clock_ms();
	k->method = "set-aside";
	k->plan = vm ? plan_disks(t, vm, &none, vdi_operations_snapshot) : NULL;
	if (!k->plan)
		return -1;
	for (size_t i = 0; i < r->disks->n; i++) {
		const struct VDI_row *vdi = revert_target(t, r->vm, r->disks->v[i].vdi);
		for (size_t j = 0; vdi && j < k->plan->n; j++)
			k->plan->v[j].left |= streq(k->plan->v[j].vdi->row.ref, vdi->row.ref);
	}
	r->kept = k;
	return plan_overlays(t, k->plan);
}

/* ---- the process ---- */

/* From here on the guest does nothing that it would be told was done.  A VMM that does not answer loses only what is
 * to be thrown away. */
static int stand_still(struct task *t, const struct revert *r)
{
	void *hold = talloc_new(t);
	const struct VM_row *vm = db_get(t, VM, r->vm);
	struct vmm *vmm = vm_has_process(vm) ? guest_get(hold, r->vm) : NULL;
	int result = vm ? 0 : -1;
	if (vmm && vm->power_state == vm_power_state_Running) {
		result = undo_vm_resume(t, r->vm);
		crash_point();
		result = result < 0 ? -1 : settings.vmm->pause(t, vmm);
		crash_point_standing();
	}
	talloc_free(hold);
	if (r->kept)
		return result < 0 ? -1 : plan_sync(t, r->kept->plan);
	if (result < 0 && vmm)
		task_forgive(t);
	return vm ? 0 : -1;
}

/* The rows say what counts.  A process that does not end now is ended as soon as it can be, and the VM is busy until
 * then. */
static void end_process(struct task *t, const struct revert *r)
{
	if (!r->ends)
		return;
	if (r->kept)
		talloc_free(r->kept->plan->hold); /* of the process, which is to end */
	crash_point_standing();
	if (guest_stop(t, r->vm) == 0 && operation_end(t) == 0)
		return;
	log_line(t, "the process of a reverted VM does not end vm=%s error=\"%s\"", r->vm,
		 task_error(t));
	task_forgive(t);
}

/* ---- the call ---- */

/* Of what is set aside the plan asks. */
static int ask(struct task *t, const struct revert *r)
{
	const struct VM_row *vm = db_get(t, VM, r->vm);
	if (!vm)
		return -1;
	return r->kept ? 0 : plan_ask(t, vm);
}

static int make(struct task *t, struct revert *r, const struct VM_row *snap, bool keep)
{
	struct list none = { 0 };
	r->disks = plan_disks(t, snap, &none, vdi_operations_revert_from);
	if (!r->disks || (keep && begin_kept(t, r, snap) < 0) || revert_take(t, r) < 0 ||
	    coalesce_hold_vm(t, t->scope, r->vm, true) < 0 || ask(t, r) < 0)
		return -1;
	return plan_copies(t, r->disks) < 0 ? -1 : take_memory(t, snap, &r->memory);
}

int VM_revert(struct task *t, struct VM_revert *a)
{
	int64_t begin = clock_ms();
	struct VM_row *snap = operation_begin(t, a->snapshot, vm_operations_revert);
	bool exists = snap && db_seek(t, VM, snap->snapshot_of);
	struct revert r = { .snapshot = a->snapshot };
	r.vm = exists ? snap->snapshot_of : snap ? revive_vm(t, snap) : NULL;
	if (!r.vm || !operation_begin(t, r.vm, vm_operations_reverting) ||
	    make(t, &r, snap, exists && a->keep_current) < 0)
		return -1;
	t->cancellable = false;
	if (stand_still(t, &r) < 0 || record(t, &r) < 0)
		return -1;
	end_process(t, &r);
	sizes_look_at(t, r.vm);
	plan_refresh(t, r.disks);
	if (r.kept)
		plan_refresh(t, r.kept->plan);
	log_line(t, "vm reverted vm=%s snapshot=%s duration_ms=%lld", r.vm, snap->uuid,
		 (long long)(clock_ms() - begin));
	return 0;
}
