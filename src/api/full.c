// SPDX-License-Identifier: Apache-2.0
#include "api/full.h"

#include <pthread.h>

#include "api/call.h"
#include "api/guests.h"
#include "api/jobs.h"
#include "api/message.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/vm.h"
#include "base/delay.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* A guest goes on when so much is free: it stopped with nothing left, so there is a step between the two.
 * One that stops again soon after that is not helped by what is free (a quota, a storage that says more than it
 * has), or eats it up: it has to wait longer each time. */
enum { ROOM = 64 << 20, ROOM_SHARE = 100 };

/* What is remembered of a guest that stands, or stood a while ago.  Only a hint where to look: the VMM
 * knows. */
struct standing {
	struct standing *next;
	const char *vm; /* ref */
	char *sr;       /* ref of what is full; NULL: any that it has disks in */
	bool stands;
	bool trying; /* a job is at it */
	int64_t due_ms, wait_ms;
	int64_t went_on_ms; /* when it was let go on last */
};

static struct {
	pthread_mutex_t lock;
	struct standing *first;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- the list; lock held ---- */

static struct standing *find(const char *vm)
{
	struct standing *s = all.first;
	while (s && !streq(s->vm, vm))
		s = s->next;
	return s;
}

static struct standing *find_or_add(const char *vm)
{
	struct standing *s = find(vm);
	if (s)
		return s;
	s = talloc_zero(NULL, struct standing);
	s->vm = talloc_strdup(s, vm);
	s->went_on_ms = -delay_ms(DELAY_FULL_SOON);
	s->next = all.first;
	return all.first = s;
}

static void forget(const char *vm)
{
	pthread_mutex_lock(&all.lock);
	for (struct standing **at = &all.first; *at; at = &(*at)->next) {
		struct standing *s = *at;
		if (!streq(s->vm, vm))
			continue;
		*at = s->next;
		talloc_free(s);
		break;
	}
	pthread_mutex_unlock(&all.lock);
}

/* Is it news that the guest stands? */
static bool note_stopped(const char *vm, const char *sr)
{
	pthread_mutex_lock(&all.lock);
	struct standing *s = find_or_add(vm);
	bool news = !s->stands, soon = clock_ms() - s->went_on_ms < delay_ms(DELAY_FULL_SOON);
	if (news) {
		int64_t longer = s->wait_ms * 2, most = delay_ms(DELAY_FULL_WAIT_MOST);
		s->wait_ms = !soon ? delay_ms(DELAY_FULL_WAIT) : longer < most ? longer : most;
		s->due_ms = clock_ms() + s->wait_ms;
	}
	s->stands = true;
	if (*sr) {
		talloc_free(s->sr);
		s->sr = talloc_strdup(s, sr);
	}
	pthread_mutex_unlock(&all.lock);
	return news;
}

/* Written before it goes on: that it has stopped again may be told at once. */
static void note_going_on(const char *vm, bool goes_on)
{
	pthread_mutex_lock(&all.lock);
	struct standing *s = find(vm);
	if (s) {
		s->stands = !goes_on;
		s->went_on_ms = goes_on ? clock_ms() : -delay_ms(DELAY_FULL_SOON);
	}
	pthread_mutex_unlock(&all.lock);
}

/* went_on: it was let go on, and may have stopped again; else it is looked at again soon. */
static void note_looked(const char *vm, bool went_on)
{
	pthread_mutex_lock(&all.lock);
	struct standing *s = find(vm);
	if (s) {
		s->trying = false;
		s->due_ms = clock_ms() + (went_on ? s->wait_ms : delay_ms(DELAY_FULL_WAIT) / 2);
	}
	pthread_mutex_unlock(&all.lock);
}

/* ---- which storage ---- */

static const char *sr_of_vdi(struct task *t, const char *vdi)
{
	const struct VDI_row *row = db_seek(t, VDI, vdi);
	return row ? row->SR : "";
}

/* The SR of the disk, "" when it is not to be found. */
static const char *sr_of_disk(struct task *t, const struct VM_row *vm, const char *disk)
{
	if (streq(disk, VMM_NVRAM))
		return sr_of_vdi(t, vm->NVRAM_VDI);
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref)
		if (streq(vbd_device_id(t, vbd->userdevice), disk))
			return sr_of_vdi(t, vbd->VDI);
	return "";
}

/* The SRs that the guest writes to. */
static struct list srs_of(struct task *t, const char *vm_ref)
{
	struct list srs = { 0 };
	const struct VM_row *vm = db_seek(t, VM, vm_ref);
	DB_EACH (t, VBD, vbd, "VM", vm_ref)
		if (vbd->currently_attached && vbd->mode == vbd_mode_RW)
			list_put(t, &srs, sr_of_vdi(t, vbd->VDI));
	if (vm)
		list_put(t, &srs, sr_of_vdi(t, vm->NVRAM_VDI));
	list_remove(&srs, "");
	return srs;
}

/* How much is free in the SR, and how much has to be; -1: it cannot be asked. */
static int room_of(struct task *t, const char *sr_ref, uint64_t *ret_free, uint64_t *ret_needed)
{
	const struct sr *sr = storage_sr(t, sr_ref);
	uint64_t total, free_bytes;
	if (!sr || sr->layout->space(t, sr, &total, &free_bytes) < 0) {
		task_forgive(t);
		return -1;
	}
	*ret_free = free_bytes;
	*ret_needed = total / ROOM_SHARE < ROOM ? total / ROOM_SHARE : ROOM;
	return 0;
}

static bool has_room(struct task *t, const char *sr_ref)
{
	uint64_t free_bytes, needed;
	return room_of(t, sr_ref, &free_bytes, &needed) == 0 && free_bytes >= needed;
}

/* Which of several is full is not known after a restart.  To try harms nothing: the guest stops at the
 * same write, and that tells which. */
static bool may_go_on(struct task *t, const char *vm_ref, const char *sr_ref)
{
	if (*sr_ref)
		return has_room(t, sr_ref);
	struct list srs = srs_of(t, vm_ref);
	for (size_t i = 0; i < srs.n; i++)
		if (has_room(t, srs.v[i]))
			return true;
	return false;
}

/* ---- it stops ---- */

/* "SR 'disks' (uuid: ...) is full: 12.0 KiB are free.  ..." */
static const char *what_is_full(struct task *t, const char *sr_ref)
{
	uint64_t free_bytes, needed;
	const struct SR_row *sr = db_seek(t, SR, sr_ref);
	if (!sr || room_of(t, sr_ref, &free_bytes, &needed) < 0)
		return "its storage is full. The VM is paused, and goes on by itself when there is "
		       "room.";
	return str(t,
		   "SR '%s' (uuid: %s) is full: %s free. The VM is paused, and goes on by itself "
		   "when %s are free.",
		   sr->name_label, sr->uuid, size_str(t, free_bytes), size_str(t, needed));
}

void full_stopped(struct task *t, const char *vm_ref, const char *disk, bool told)
{
	const struct VM_row *vm = db_seek(t, VM, vm_ref);
	if (!vm)
		return;
	const char *sr = sr_of_disk(t, vm, disk);
	if (!note_stopped(vm_ref, sr))
		return;
	log_line(t, "storage full vm=%s disk=%s sr=%s", vm->uuid, disk, sr);
	if (told)
		return;
	message_tell(t, "VM_PAUSED_STORAGE_FULL", MESSAGE_WARNING, cls_VM, vm->uuid,
		     str(t,
			 "VM '%s' (uuid: %s)%s%s: %s Delete a snapshot or a disk, or make the "
			 "file system larger.",
			 vm->name_label, vm->uuid, *disk ? ", disk " : "", disk,
			 what_is_full(t, sr)));
}

/* ---- it goes on ---- */

/* 1: it goes on; 0: it did not stand for want of room. */
static int resume(struct task *t, const struct VM_row *vm)
{
	void *hold = talloc_new(t);
	enum vmm_status status = VMM_RUNNING;
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = !vmm ? -1 : settings.vmm->status(t, vmm, &status);
	if (result == 0 && status == VMM_IO_ERROR) {
		note_going_on(vm->row.ref, true);
		result = settings.vmm->resume(t, vmm) < 0 ? -1 : 1;
		if (result < 0)
			note_going_on(vm->row.ref, false);
	}
	talloc_free(hold);
	return result;
}

static int record_going_on(struct task *t, const char *vm_ref)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, vm_ref);
	if (!vm)
		return -1;
	if (vm->power_state == vm_power_state_Paused)
		vm->power_state = vm_power_state_Running;
	const char *body = str(t, "VM '%s' (uuid: %s) goes on: its storage has room again",
			       vm->name_label, vm->uuid);
	if (db_put(t, &vm->row) < 0 ||
	    message_tell(t, "VM_RESUMED_STORAGE_ROOM", 4, cls_VM, vm->uuid, body) < 0 ||
	    operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

static int run_go_on(struct task *t, void *vm_ref)
{
	struct VM_row *vm = operation_begin(t, vm_ref, vm_operations_unpause);
	int resumed = vm ? resume(t, vm) : -1;
	if (resumed <= 0)
		return resumed < 0 ? -1 : operation_end(t);
	if (record_going_on(t, vm_ref) < 0)
		return -1;
	log_line(t, "guest went on after its storage was full vm=%s", vm->uuid);
	guest_settle(t, vm_ref);
	return 0;
}

static const struct call call_go_on = { .name = "VM.resume_after_full",
					.result = VOID,
					.run = run_go_on };

static const char *full_sr(struct task *t, const char *vm_ref)
{
	pthread_mutex_lock(&all.lock);
	const struct standing *s = find(vm_ref);
	const char *sr = talloc_strdup(t, s && s->sr ? s->sr : "");
	pthread_mutex_unlock(&all.lock);
	return sr;
}

/* Neither the VM nor its storage need answer soon. */
static int look_after(struct task *t, const char *vm_ref)
{
	bool stands = guest_settle(t, vm_ref);
	bool goes_on = stands && may_go_on(t, vm_ref, full_sr(t, vm_ref));
	if (!stands)
		forget(vm_ref);
	int result = goes_on ? api_call(t, &call_go_on, talloc_strdup(t, vm_ref)) : 0;
	note_looked(vm_ref, goes_on);
	return result;
}

/* ---- looking ---- */

/* The VM that is due, and is tried from now on; on t.  NULL: there is none. */
static const char *take_due(struct task *t)
{
	const char *vm = NULL;
	pthread_mutex_lock(&all.lock);
	for (struct standing *s = all.first; s && !vm; s = s->next) {
		if (!s->stands || s->trying || clock_ms() < s->due_ms)
			continue;
		s->trying = true;
		vm = talloc_strdup(t, s->vm);
	}
	pthread_mutex_unlock(&all.lock);
	return vm;
}

void full_look(struct task *t)
{
	const char *vm;
	while ((vm = take_due(t)) != NULL)
		if (!jobs_start("go on", look_after, vm, 0))
			note_looked(vm, false);
}

void full_close(void)
{
	while (all.first)
		forget(all.first->vm);
}
