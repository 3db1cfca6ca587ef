// SPDX-License-Identifier: Apache-2.0
#include "api/sizes.h"

#include "api/guests.h"
#include "api/storage.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"

/* A row that is written wakes all who wait for events, so what a guest adds bit by bit is told once a minute,
 * and in between only when it is more than a little. */
enum { LITTLE = 1 << 20, ALL_EVERY = 6 };

/* A disk's volume as the storage tells. */
struct sized {
	const char *vdi; /* ref */
	struct volume volume;
};

struct look {
	struct task *task;
	struct list vdis; /* refs, each once */
	size_t n;
	struct sized *v; /* those whose rows are not right */
};

/* ---- which disks ---- */

static void add_written(struct look *l, const char *vm_ref)
{
	const struct VM_row *vm = db_seek(l->task, VM, vm_ref);
	DB_EACH (l->task, VBD, vbd, "VM", vm_ref)
		if (vbd->mode == vbd_mode_RW && !ref_is_null(vbd->VDI))
			list_put(l->task, &l->vdis, vbd->VDI);
	if (vm && !ref_is_null(vm->NVRAM_VDI))
		list_put(l->task, &l->vdis, vm->NVRAM_VDI);
}

/* ---- asking ---- */

static int64_t distance(int64_t a, uint64_t b)
{
	return a < (int64_t)b ? (int64_t)b - a : a - (int64_t)b;
}

/* A volume that cannot be asked now is asked another time. */
static void ask(struct look *l, const char *ref, int64_t little)
{
	struct task *t = task_new(l->task, l->task->name);
	const struct VDI_row *vdi = db_seek(t, VDI, ref);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	struct volume v;
	if (sr && sr->layout->stat(t, sr, vdi->location, &v) == 0 &&
	    (distance(vdi->physical_utilisation, v.physical_size) >= little ||
	     vdi->virtual_size != (int64_t)v.virtual_size)) {
		l->v = talloc_realloc(l->task, l->v, struct sized, l->n + 1);
		v.id = talloc_strdup(l->task, v.id);
		l->v[l->n++] = (struct sized){ .vdi = talloc_strdup(l->task, ref), .volume = v };
	}
	talloc_free(t);
}

static void ask_all(struct look *l, int64_t little)
{
	for (size_t i = 0; i < l->vdis.n; i++)
		ask(l, l->vdis.v[i], little);
}

/* All rows in one transaction: one write to the disk, and listeners wake once. */
static int write_sizes(struct look *l)
{
	struct task *t = l->task;
	DB_SCOPE(t);
	for (size_t i = 0; i < l->n; i++)
		if (storage_write_size(t, l->v[i].vdi, &l->v[i].volume) < 0)
			return -1;
	return db_commit(t);
}

/* ---- sums ---- */

static void write_sums(struct task *t)
{
	DB_ALL (t, PBD, pbd) {
		if (!pbd->currently_attached)
			continue;
		struct task *own = task_new(t, t->name);
		const struct sr *sr = storage_sr(own, pbd->SR);
		uint64_t total, free_bytes;
		if (sr && sr->layout->space(own, sr, &total, &free_bytes) == 0)
			storage_write_sums(own, pbd->SR, total);
		talloc_free(own);
	}
}

static bool any_disk_deleted(struct task *t, int64_t since)
{
	struct deleted *d = db_deleted(t, since);
	if (!d) {
		task_forgive(t); /* more than is remembered */
		return true;
	}
	while (d->class && !streq(d->class, class_VDI.name))
		d++;
	return d->class;
}

/* ---- looking ---- */

static void look(struct look *l, int64_t little, bool sums)
{
	ask_all(l, little);
	if (l->n && write_sizes(l) < 0) {
		log_line(l->task, "sizes not written error=\"%s\"", task_error(l->task));
		task_forgive(l->task);
	}
	if (l->n || sums)
		write_sums(l->task);
}

void sizes_look(struct task *t)
{
	/* One thread calls this.  Rows that were written since tell of volumes that are new, or whose size
	 * nobody has asked yet: a frozen one that became a base copy. */
	static int64_t seen = -1;
	static unsigned times;
	int64_t now = db_generation(), little = times++ % ALL_EVERY ? LITTLE : 1;
	struct look writing = { .task = t }, changed = { .task = t };
	bool first = seen < 0;
	struct list running = guests_running(t);
	for (size_t i = 0; i < running.n; i++)
		add_written(&writing, running.v[i]);
	for (struct changed *c = first ? NULL : db_changed(t, &class_VDI, seen); c && c->ref; c++)
		list_add(t, &changed.vdis, c->ref);
	bool sums = first || changed.vdis.n || any_disk_deleted(t, seen);
	look(&writing, little, false);
	look(&changed, 1, sums);
	seen = now;
}

void sizes_look_at(struct task *t, const char *vm_ref)
{
	struct task *own = task_new(t, t->name);
	struct look l = { .task = own };
	add_written(&l, vm_ref);
	look(&l, 1, false);
	talloc_free(own);
}
