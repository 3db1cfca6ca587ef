// SPDX-License-Identifier: Apache-2.0
/* vm_suspend.c -- a VM's memory goes to disk and its process ends; and it goes on from there.
 *
 *     suspend   stop, save, record Suspended, end the process      until it is recorded: undo VM_RESUME
 *     resume    start a process that loads the image, and verify
 *               each page beside that; record Running, and that
 *               the image is gone; let the guest run               until it is recorded: undo GUEST_KILL,
 *                                                                  then VM_RESUME
 *
 * From the moment the guest runs it writes its disks, and the image would be of another time: so it is gone
 * before. */
#include <pthread.h>

#include "api/agents.h"
#include "api/boot.h"
#include "api/call.h"
#include "api/coalesce.h"
#include "api/console.h"
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
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"

/* ---- suspend ---- */

static int record_suspended(struct task *t, const char *ref, struct VDI_row *memory)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || db_insert(t, &memory->row) < 0)
		return -1;
	vm->suspend_VDI = memory->row.ref;
	vm->power_state = vm_power_state_Suspended;
	if (vtpm_save(t, vm) < 0 || guest_mark_suspended(t, vm) < 0 || operation_end(t) < 0)
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

static int suspend(struct task *t, const struct VM_row *vm, struct vmm *vmm, void *hold)
{
	struct suspend_image m;
	int result = suspend_image_begin(t, vm, &m);
	if (result == 0)
		result = save(t, vm, vmm, &m);
	struct VDI_row *memory = result == 0 ? suspend_image_record(t, &m, false) : NULL;
	suspend_image_close(&m);
	crash_point();
	t->cancellable = false;
	if (!memory || record_suspended(t, vm->row.ref, memory) < 0) {
		suspend_image_give_up(t, &m, vmm);
		return -1;
	}
	crash_point();
	talloc_free(hold); /* of the process, which is to end */
	storage_refresh(t, memory->SR, (const char *[]){ NULL });
	return 0;
}

int VM_suspend(struct task *t, struct VM_suspend *a)
{
	int64_t begin = clock_ms();
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_suspend);
	void *hold = talloc_new(t);
	struct vmm *vmm = vm ? guest_need(t, hold, vm) : NULL;
	if (!vmm || coalesce_hold_vm(t, t, a->vm, false) < 0 || suspend(t, vm, vmm, hold) < 0)
		return -1;
	/* The row says what counts; a process that is still there is ended at the next start, if not now. */
	if (guest_stop(t, a->vm) < 0) {
		log_line(t, "the process of a suspended VM does not end error=\"%s\"",
			 task_error(t));
		task_forgive(t);
	}
	log_line(t, "vm suspended vm=%s duration_ms=%lld", vm->uuid,
		 (long long)(clock_ms() - begin));
	return 0;
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

static int load_verified(struct task *t, const char *ref, struct vmm_config *c,
			 const struct image *image)
{
	struct verifying v = { .part = task_part(t), .image = image };
	int err = pthread_create(&v.thread, NULL, verify, &v);
	if (err)
		return task_fail_errno(t, err, "a thread for memory");
	int started = guest_start(t, ref, c);
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

/* Its devices are its own already. */
static int take_number(struct task *t, const char *ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm || undo_guest_kill(t, ref) < 0)
		return -1;
	vm->domid = vm_next_domid(t);
	vm->NVRAM_stale = !ref_is_null(vm->NVRAM_VDI);
	return db_put(t, &vm->row) < 0 ? -1 : db_commit(t);
}

static int load(struct task *t, const char *ref, const struct saved *s)
{
	if (take_number(t, ref) < 0)
		return -1;
	struct VM_row *now = db_get(t, VM, ref);
	struct vmm_config *c = now ? boot_config(t, as_started(t, now, s)) : NULL;
	if (!c)
		return -1;
	c->paused = true;
	c->image = s->fd;
	c->image_at = IMAGE_STREAM_AT;
	c->machine = s->image->machine;
	c->cpu = s->cpu;
	int loaded = load_verified(t, ref, c, s->image);
	boot_done(c);
	return loaded;
}

/* It has a process now, which stands still until it is let go: by us, or by who finds the row after us. */
static int record_resumed(struct task *t, const char *ref, bool paused, bool frozen,
			  const char **ret_sr)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	struct VDI_row *memory = vm ? db_seek(t, VDI, vm->suspend_VDI) : NULL;
	if (!vm || vm_mark_up(t, vm, paused, "resumed") < 0)
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

static int resume(struct task *t, const char *ref, bool paused, const struct saved *s)
{
	const char *sr = NULL_REF;
	if (load(t, ref, s) < 0)
		return -1;
	crash_point();
	t->cancellable = false;
	if (record_resumed(t, ref, paused, s->frozen, &sr) < 0)
		return -1;
	crash_point();
	if ((!paused && let_go(t, ref) < 0) || operation_end(t) < 0)
		return -1;
	if (!ref_is_null(sr))
		storage_refresh(t, sr, (const char *[]){ NULL });
	return 0;
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
	if (message_tell(t, VM_RESUMED, 5, cls_VM, vm->uuid,
			 str(t, "VM '%s' (uuid: %s) resumed in %lld ms; %s", vm->name_label,
			     vm->uuid, (long long)took_ms, clock)) < 0)
		task_forgive(t);
}

int VM_resume(struct task *t, struct VM_resume *a)
{
	int64_t begin = clock_ms();
	struct saved s;
	struct VM_row *vm = operation_begin(t, a->vm, vm_operations_resume);
	void *hold = talloc_new(t);
	if (!vm || coalesce_hold_vm(t, hold, a->vm, true) < 0 || saved_open(t, vm, &s) < 0)
		return -1;
	int result = resume(t, a->vm, a->start_paused, &s);
	fd_close(&s.fd);
	talloc_free(hold);
	if (result < 0)
		return -1;
	coalesce_kick_vm(t, a->vm);
	int64_t took_ms = clock_ms() - begin;
	log_line(t, "vm resumed vm=%s duration_ms=%lld", vm->uuid, (long long)took_ms);
	come_back(t, vm, a->start_paused, took_ms);
	return 0;
}
