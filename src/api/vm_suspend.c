// SPDX-License-Identifier: Apache-2.0
/* vm_suspend.c -- a VM's memory goes to disk and its process ends; and it goes on from there.
 *
 *     suspend   stop, save, record Suspended, end the process      until it is recorded: undo VM_RESUME
 *     resume    look whether all is there that the guest needs;
 *               start a process that loads the image, and verify
 *               each page beside that; record Running, and that
 *               the image is gone; let the guest run               until it is recorded: undo GUEST_KILL,
 *                                                                  then VM_RESUME
 *
 * A resume that fails leaves the VM suspended, with its image and as it was.  From the moment the
 * guest runs it writes its disks, and the image would be of another time: so it is gone before. */
#include <pthread.h>

#include "api/agents.h"
#include "api/boot.h"
#include "api/call.h"
#include "api/coalesce.h"
#include "api/console.h"
#include "api/firmware.h"
#include "api/guests.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/suspend_image.h"
#include "api/undo.h"
#include "api/vm.h"
#include "api/vtpm.h"
#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"
#include "db/journal.h"

/* ---- suspend ---- */

/* The VM stays busy until its process has ended: nobody makes another one before. */
static int record_suspended(struct task *t, const struct VM_row *then, struct VDI_row *memory)
{
	DB_SCOPE(t);
	const char *ref = then->row.ref;
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || vm_check_number(t, vm, then->domid) < 0 || db_insert(t, &memory->row) < 0)
		return -1;
	vm->suspend_VDI = memory->row.ref;
	vm->power_state = vm_power_state_Suspended;
	if (vtpm_save(t, vm) < 0 || guest_mark_suspended(t, vm) < 0 || journal_drop(t) < 0 ||
	    undo_operation_end(t, "VM", ref) < 0)
		return -1;
	return db_commit(t);
}

static int save(struct task *t, const struct VM_row *vm, struct vmm *vmm, struct suspend_image *m)
{
	struct vmm_save v = {
		.running = true,
		.keep_stopped = true,
		.open = suspend_image_socket,
		.arg = m,
	};
	if (undo_vm_resume(t, vm->row.ref) < 0)
		return -1;
	if (settings.vmm->save(t, vmm, &v) < 0)
		return suspend_image_failed(t, m);
	m->cpu = v.cpu;
	return suspend_image_finish(t, m, vm, NULL) < 0 ? -1
							: settings.vmm->save_end(t, vmm, false);
}

static int suspend(struct task *t, const struct VM_row *vm, struct vmm *vmm)
{
	struct suspend_image m;
	int result = suspend_image_begin(t, vm, &m);
	if (result == 0)
		result = save(t, vm, vmm, &m);
	struct VDI_row *memory = result == 0 ? suspend_image_record(t, &m, false) : NULL;
	suspend_image_close(&m);
	crash_point_standing();
	t->cancellable = false;
	if (!memory || record_suspended(t, vm, memory) < 0) {
		suspend_image_give_up(t, &m, vmm);
		return -1;
	}
	crash_point_standing();
	storage_refresh(t, memory->SR, (const char *[]){ NULL });
	return 0;
}

/* The row says what counts; a process that does not end is ended before the next one is made. */
static void end_process(struct task *t, const struct VM_row *vm)
{
	if (guest_stop(t, vm->row.ref) == 0)
		return;
	log_line(t, "the process of a suspended VM does not end vm=%s error=\"%s\"", vm->uuid,
		 task_error(t));
	task_forgive(t);
}

/* Until the process has ended nobody merges what it has open: QEMU aborts when a job writes a disk behind the end
 * of a migration. */
static int suspend_held(struct task *t, const void *layers, const struct VM_row *vm)
{
	if (operation_wait_devices(t, vm->row.ref) < 0 ||
	    coalesce_hold_vm(t, layers, vm->row.ref, true) < 0)
		return -1;
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = vmm ? suspend(t, vm, vmm) : -1;
	talloc_free(hold);
	if (result < 0)
		return -1;
	end_process(t, vm);
	return operation_end(t);
}

int VM_suspend(struct task *t, struct VM_suspend *a)
{
	int64_t begin = clock_ms();
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_suspend);
	void *layers = talloc_new(t);
	int result = vm ? suspend_held(t, layers, vm) : -1;
	talloc_free(layers);
	if (result == 0)
		log_line(t, "vm suspended vm=%s duration_ms=%lld", vm->uuid,
			 (long long)(clock_ms() - begin));
	return result;
}

/* ---- resume ---- */

/* Pages are read twice at once: by the VMM, and here. */
struct verifying {
	struct task *part;
	const struct image *image;
	pthread_t thread;
	int result;
};

static void *verify(void *arg)
{
	struct verifying *v = arg;
	v->result = image_verify(v->part, v->image);
	return NULL;
}

static int load_verified(struct task *t, struct starting *place, struct vmm_config *c,
			 const struct image *image)
{
	struct verifying v = { .part = task_part(t), .image = image };
	int err = pthread_create(&v.thread, NULL, verify, &v);
	if (err)
		return task_fail_errno(t, err, "a thread for memory");
	int started = guest_start(t, place, c);
	pthread_join(v.thread, NULL);
	if (started < 0)
		return -1;
	return v.result == 0 ? 0 : task_fail_params(t, v.part->code, v.part->params);
}

/* What it is now is who it is and which devices it has; what it was made with is as it was then. */
static struct VM_row *as_started(struct task *t, const struct VM_row *now, const struct saved *s)
{
	struct VM_row *vm = (struct VM_row *)model_copy(t, &s->vm->row);
	vm->row.ref = now->row.ref;
	vm->uuid = now->uuid;
	vm->name_label = now->name_label;
	vm->domid = now->domid;
	vm->generation_id = now->generation_id;
	vm->NVRAM_VDI = now->NVRAM_VDI;
	vm->actions_after_reboot = now->actions_after_reboot;
	vm->actions_after_crash = now->actions_after_crash;
	return vm;
}

/* memory: who has it, with the devices that the guest knows. */
static int check_saved(struct task *t, const struct VM_row *now, const struct VM_row *memory,
		       const struct saved *s)
{
	return boot_check(t, as_started(t, now, s), memory, s->image);
}

int vm_check_resume(struct task *t, const struct VM_row *memory)
{
	struct saved s;
	const struct VM_row *own =
		memory->is_a_snapshot ? db_seek(t, VM, memory->snapshot_of) : NULL;
	if (saved_open(t, memory, &s) < 0)
		return -1;
	int result = check_saved(t, own ? own : memory, memory, &s);
	fd_close(&s.fd);
	return result;
}

/* Its devices are its own already. */
static int take_number(struct task *t, const char *ref, const struct VM_row *then)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	return !vm || vm_take_number(t, vm, vm_power_state_Suspended, then) < 0 ? -1 : db_commit(t);
}

static int load(struct task *t, const void *hold, const struct VM_row *vm, const struct saved *s,
		int64_t *ret_number)
{
	const char *ref = vm->row.ref;
	struct starting *place = guest_begin(t, hold, vm);
	struct VM_row *now = place && take_number(t, ref, s->vm) == 0 ? db_get(t, VM, ref) : NULL;
	struct vmm_config *c = now ? boot_config(t, as_started(t, now, s), s->image) : NULL;
	if (!c)
		return -1;
	*ret_number = now->domid;
	int loaded = load_verified(t, place, c, s->image);
	boot_done(c);
	return loaded;
}

/* It has a process now, which stands still until it is let go: by us, or by who finds the row after us. */
static int record_resumed(struct task *t, const char *ref, int64_t number, bool paused, bool frozen,
			  const char **ret_sr)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	struct VDI_row *memory = vm ? db_seek(t, VDI, vm->suspend_VDI) : NULL;
	if (!vm || vm_mark_up(t, vm, number, paused) < 0)
		return -1;
	*ret_sr = memory ? talloc_strdup(t, memory->SR) : NULL_REF;
	vm->frozen = frozen;
	if (suspend_image_drop(t, vm) < 0 || consoles_make(t, vm) < 0 || db_put(t, &vm->row) < 0 ||
	    journal_drop(t) < 0 || undo_operation_end(t, "VM", ref) < 0 ||
	    (!paused && undo_vm_resume(t, ref) < 0) ||
	    (!paused && frozen && quiesce_release_later(t, ref) < 0))
		return -1;
	return db_commit(t);
}

static int let_go(struct task *t, const char *ref)
{
	void *hold = talloc_new(t);
	struct VM_row *vm = db_get(t, VM, ref);
	struct vmm *vmm = vm ? guest_need(t, hold, vm) : NULL;
	int result = vmm ? settings.vmm->resume(t, vmm) : -1;
	talloc_free(hold);
	return result;
}

static int resume(struct task *t, const void *hold, const struct VM_row *vm, bool paused,
		  const struct saved *s)
{
	const char *sr = NULL_REF, *ref = vm->row.ref;
	int64_t number;
	if (check_saved(t, vm, vm, s) < 0 || load(t, hold, vm, s, &number) < 0)
		return -1;
	crash_point_standing();
	t->cancellable = false;
	if (record_resumed(t, ref, number, paused, s->frozen, &sr) < 0)
		return -1;
	crash_point_standing();
	if ((!paused && let_go(t, ref) < 0) || operation_end(t) < 0)
		return -1;
	if (!ref_is_null(sr))
		storage_refresh(t, sr, (const char *[]){ NULL });
	return 0;
}

/* The row is that of behind the wait for its layers. */
static int resume_held(struct task *t, const void *hold, const char *ref, bool paused)
{
	struct saved s;
	const struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || saved_open(t, vm, &s) < 0)
		return -1;
	int result = resume(t, hold, vm, paused, &s);
	fd_close(&s.fd);
	return result;
}

/* The guest goes on as if no time had passed, and its networks may have forgotten it. */
static void come_back(struct task *t, const struct VM_row *vm, bool paused, int64_t took_ms)
{
	void *hold = talloc_new(t);
	const char *clock = "its clock goes on from where it stood, for it is paused";
	struct vmm *vmm = guest_get(hold, vm->row.ref);
	if (vmm && settings.vmm->announce(t, vmm) < 0)
		log_line(t, "not announced vm=%s error=\"%s\"", vm->uuid, task_error(t));
	talloc_free(hold);
	task_forgive(t);
	if (!paused && quiesce_release(t, vm->row.ref) < 0)
		task_forgive(t); /* it is tried again */
	if (!paused)
		clock = agent_set_clock(t, vm->row.ref);
	if (message_tell(t, VM_RESUMED, MESSAGE_INFORMATION, cls_VM, vm->uuid,
			 str(t, "VM '%s' (uuid: %s) resumed in %lld ms; %s", vm->name_label,
			     vm->uuid, (long long)took_ms, clock)) < 0)
		task_forgive(t);
}

int VM_resume(struct task *t, struct VM_resume *a)
{
	int64_t begin = clock_ms();
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_resume);
	void *hold = talloc_new(t);
	int result = vm && coalesce_hold_vm(t, hold, a->vm, true) == 0
			     ? resume_held(t, hold, a->vm, a->start_paused)
			     : -1;
	talloc_free(hold);
	if (result < 0)
		return -1;
	coalesce_kick_vm(t, a->vm);
	int64_t took_ms = clock_ms() - begin;
	log_line(t, "vm resumed vm=%s duration_ms=%lld", vm->uuid, (long long)took_ms);
	come_back(t, vm, a->start_paused, took_ms);
	return 0;
}
