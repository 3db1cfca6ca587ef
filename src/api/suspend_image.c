// SPDX-License-Identifier: Apache-2.0
#include "api/suspend_image.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/device.h"
#include "api/metadata.h"
#include "api/plan.h"
#include "api/quiesce.h"
#include "api/settings.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/vdi.h"
#include "base/io.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "memory/receiver.h"
#include "sr/disk.h"
#include "vmm/vmm.h"

enum {
	SECTOR = 512,
	FIRST_BYTES = 1 << 20, /* a raw volume is never empty */
	BESIDE_RAM = 512 << 20 /* video memory, firmware, ROMs */
};
#define FLASH "system.flash1" /* QEMU's name for the block with the variables */

/* ---- where ---- */

static const char *suspend_sr(struct task *t, const struct VM_row *vm)
{
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	struct host_row *host = *(struct host_row **)db_find(t, &class_host, NULL, NULL);
	const char *wishes[] = { vm->suspend_SR, pool->suspend_image_SR, host->suspend_image_sr };
	for (size_t i = 0; i < COUNT(wishes); i++)
		if (db_seek(t, SR, wishes[i]))
			return wishes[i];
	return fail_ptr(t, VM_NO_SUSPEND_SR, vm->row.ref);
}

/* All of RAM may be other than zeros. */
static int check_room(struct task *t, const struct suspend_image *m, const struct VM_row *vm)
{
	uint64_t total, free_bytes;
	if (m->sr->layout->space(t, m->sr, &total, &free_bytes) < 0)
		return -1;
	return free_bytes >= (uint64_t)vm->memory_static_max
		       ? 0
		       : fail(t, SR_SUSPEND_SPACE_INSUFFICIENT, m->sr_ref);
}

static int open_sr(struct task *t, const char *ref, struct suspend_image *m)
{
	m->sr_ref = ref;
	m->sr = storage_writable_sr(t, ref);
	if (m->sr && (!m->sr->layout->open || !m->sr->layout->create_raw))
		return fail(t, SR_OPERATION_NOT_SUPPORTED, ref);
	return m->sr ? 0 : -1;
}

/* ---- making ---- */

int suspend_image_begin(struct task *t, const struct VM_row *vm, struct suspend_image *ret)
{
	*ret = (struct suspend_image){
		.fd = -1,
		.volume = volume_id_new(t),
		.frozen = quiesce_holds(t, vm),
		.limit = (uint64_t)vm->memory_static_max + BESIDE_RAM,
	};
	if (vm->attached_PCIs.n)
		return fail(t, VM_HAS_PCI_ATTACHED, vm->row.ref);
	const char *ref = suspend_sr(t, vm);
	if (!ref || open_sr(t, ref, ret) < 0 || check_room(t, ret, vm) < 0 ||
	    undo_vol_delete(t, ref, ret->volume, "") < 0 ||
	    ret->sr->layout->create_raw(t, ret->sr, ret->volume, FIRST_BYTES) < 0)
		return -1;
	return ret->sr->layout->open(t, ret->sr, ret->volume, true, &ret->fd);
}

int suspend_image_socket(struct task *t, void *image)
{
	struct suspend_image *m = image;
	int theirs;
	if (m->receiver)
		receiver_close(m->receiver);
	m->receiver = NULL;
	if (ftruncate(m->fd, 0) < 0)
		return task_fail_errno(t, errno, "memory image");
	m->receiver = receiver_open(t, m->fd, m->limit, &theirs);
	return m->receiver ? theirs : -1;
}

static json_t *notes(struct task *t, const struct suspend_image *m, const struct VM_row *vm)
{
	return json_own(t, json_pack("{s:s, s:s, s:b, s:O*}", "accel", settings.accel, "record",
				     vm->last_booted_record, "frozen", m->frozen, "cpu", m->cpu));
}

/* ---- the variables of UEFI ---- */

static const struct plan_disk *store_of(const struct plan *p)
{
	for (size_t i = 0; p && i < p->n; i++)
		if (p->v[i].written && streq(p->v[i].id, VMM_NVRAM))
			return &p->v[i];
	return NULL;
}

static int put_disk(struct task *t, struct image_writer *w, size_t block, struct disk *d)
{
	char page[MIGRATION_PAGE];
	for (uint64_t at = 0; at + sizeof page <= disk_size(d); at += sizeof page)
		if (disk_read(t, d, at, page, sizeof page) < 0 ||
		    image_put(t, w, block, at, page) < 0)
			return -1;
	return 0;
}

/* QEMU does not write protect this block, and a guest may have set a variable since the instant. */
static int put_variables(struct task *t, struct image_writer *w, const struct plan *p)
{
	const struct plan_disk *store = store_of(p);
	size_t block = store ? image_block(w, FLASH) : 0;
	if (!store)
		return 0;
	struct disk *d = disk_open(t, store->sr, store->vdi->location, false);
	return d ? disk_close(t, d, put_disk(t, w, block, d)) : -1;
}

/* ---- the end ---- */

/* A raw volume ends with a sector. */
static int round_up(struct task *t, int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || ftruncate(fd, (st.st_size + SECTOR - 1) / SECTOR * SECTOR) < 0)
		return task_fail_errno(t, errno, "memory image");
	return 0;
}

int suspend_image_finish(struct task *t, struct suspend_image *m, const struct VM_row *vm,
			 const struct plan *p)
{
	struct image_writer *w = receiver_wait(t, m->receiver);
	if (!w || put_variables(t, w, p) < 0 ||
	    image_finish(t, w, notes(t, m, vm), &m->bytes) < 0 || round_up(t, m->fd) < 0)
		return -1;
	return m->sr->layout->sync(t, m->sr, m->volume);
}

int suspend_image_failed(struct task *t, struct suspend_image *m)
{
	/* A stream that was cut follows from these, and is no cause. */
	if (!m->receiver || t->code == TASK_CANCELLED || t->code == VM_HALTED)
		return -1;
	return receiver_find_cause(t, m->receiver);
}

void suspend_image_close(struct suspend_image *m)
{
	if (m->receiver)
		receiver_close(m->receiver);
	m->receiver = NULL;
	fd_close(&m->fd);
}

void suspend_image_give_up(struct task *t, struct suspend_image *m, struct vmm *vmm)
{
	struct task *after = task_new(t, t->name);
	suspend_image_close(m);
	after->undoing = 1;
	if (settings.vmm->save_end(after, vmm, true) == 0)
		return;
	if (after->code == VM_HALTED && t->code == INTERNAL_ERROR) {
		/* The stream that ended too early ended with its guest. */
		task_forgive(t);
		task_fail_params(t, after->code, after->params);
	} else if (after->code != VM_HALTED) {
		log_line(t, "saving not ended error=\"%s\"", task_error(after));
	}
}

/* ---- its record ---- */

static struct VDI_row *record(struct task *t, const char *sr_ref, const char *volume,
			      const struct volume *v, bool snapshot)
{
	struct VDI_row *vdi = row_new(t, VDI);
	vdi->name_label = "Suspend image";
	vdi->type = vdi_type_suspend;
	vdi->SR = sr_ref;
	vdi->location = volume;
	vdi->virtual_size = (int64_t)v->virtual_size;
	vdi->physical_utilisation = (int64_t)v->physical_size;
	vdi->managed = true;
	vdi->is_a_snapshot = snapshot;
	if (snapshot)
		vdi->snapshot_time = time_now(vdi);
	vdi_set_format(vdi, true);
	return vdi;
}

struct VDI_row *suspend_image_record(struct task *t, const struct suspend_image *m, bool snapshot)
{
	struct volume v;
	if (m->sr->layout->stat(t, m->sr, m->volume, &v) < 0)
		return NULL;
	return record(t, m->sr_ref, m->volume, &v, snapshot);
}

struct VDI_row *suspend_image_share(struct task *t, const char *ref, bool snapshot)
{
	struct VDI_row *vdi = db_get(t, VDI, ref);
	const struct sr *sr = vdi ? storage_writable_sr(t, vdi->SR) : NULL;
	const char *id = volume_id_new(t);
	struct volume v;
	if (!sr)
		return NULL;
	if (!sr->layout->share)
		return fail_ptr(t, SR_OPERATION_NOT_SUPPORTED, vdi->SR);
	if (undo_vol_delete(t, vdi->SR, id, "") < 0 ||
	    sr->layout->share(t, sr, vdi->location, id) < 0 || sr->layout->stat(t, sr, id, &v) < 0)
		return NULL;
	return record(t, vdi->SR, id, &v, snapshot);
}

int suspend_image_drop(struct task *t, struct VM_row *vm)
{
	struct VDI_row *vdi = db_seek(t, VDI, vm->suspend_VDI);
	vm->suspend_VDI = NULL_REF;
	if (!vdi)
		return 0;
	if (devices_delete(t, &class_VBD, "VDI", vdi->row.ref) < 0 || db_delete(t, &vdi->row) < 0)
		return -1;
	return storage_release(t, vdi, vdi->location, "");
}

/* ---- what there is to come back to ---- */

static int cannot(struct task *t, const struct VM_row *vm, const char *why)
{
	return fail(t, VM_INCOMPATIBLE_WITH_THIS_HOST, vm->row.ref, this_host(), why);
}

/* Another accelerator is another processor. */
static int check_accel(struct task *t, const struct VM_row *vm, const char *accel)
{
	if (!streq(accel, settings.accel))
		return cannot(t, vm,
			      str(t,
				  "its memory was taken under %s, and this host runs VMs under %s",
				  accel, settings.accel));
	return 0;
}

static int check_machine(struct task *t, const struct VM_row *vm, const char *machine)
{
	bool known;
	if (settings.vmm->knows_machine(t, settings.accel, machine, &known) < 0)
		return -1;
	return known ? 0
		     : cannot(t, vm,
			      str(t,
				  "its machine type is %s, which this host's QEMU does not have: "
				  "use the version that it was started with, or a newer one",
				  machine));
}

const json_t *suspend_image_cpu(const struct image *image)
{
	return json_object_get(image->notes, "cpu");
}

/* Programs in the guest have looked at its CPU, and will use what they saw. */
static int check_cpu(struct task *t, const struct VM_row *vm, const json_t *cpu)
{
	struct list missing = { 0 };
	if (cpu && settings.vmm->missing_features(t, settings.accel, cpu, &missing) < 0)
		return -1;
	return !missing.n ? 0
			  : cannot(t, vm,
				   str(t,
				       "its CPU has %s, which this host does not give: its memory "
				       "can be used "
				       "on a host that does",
				       list_join(t, &missing, ", ")));
}

static int read_saved(struct task *t, const struct VM_row *vm, struct saved *s)
{
	static const char *const none[] = { NULL };
	const char *accel, *record;
	s->image = image_open(t, s->fd);
	if (!s->image)
		return -1;
	if (json_unpack(s->image->notes, "{s:s, s:s}", "accel", &accel, "record", &record) < 0)
		return fail(t, INTERNAL_ERROR, "The memory image does not tell of which VM it is.");
	s->frozen = json_is_true(json_object_get(s->image->notes, "frozen"));
	struct VM_row *then = (struct VM_row *)model_copy(t, &vm->row);
	if (metadata_read(t, record, &then->row, none) < 0)
		return -1;
	s->vm = then;
	return check_accel(t, vm, accel) < 0 || check_machine(t, vm, s->image->machine) < 0
		       ? -1
		       : check_cpu(t, vm, suspend_image_cpu(s->image));
}

int saved_open(struct task *t, const struct VM_row *vm, struct saved *ret)
{
	struct VDI_row *vdi = db_seek(t, VDI, vm->suspend_VDI);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	ret->fd = -1;
	if (!vdi)
		return fail(t, VM_HAS_NO_SUSPEND_VDI, vm->row.ref);
	if (!sr || sr->layout->open(t, sr, vdi->location, false, &ret->fd) < 0)
		return -1;
	if (read_saved(t, vm, ret) == 0)
		return 0;
	fd_close(&ret->fd);
	return -1;
}
