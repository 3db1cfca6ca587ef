// SPDX-License-Identifier: Apache-2.0
/* vdi_layers.c -- VDI.snapshot and VDI.clone: one disk by itself.
 *
 *     before      volume (disk)
 *
 *     snapshot    volume (snapshot)  <-- overlay (disk)
 *
 *     clone       volume (hidden)    <-- overlay (disk)
 *                                    <-- copy (clone)
 *
 * A disk that a running guest writes goes the way of VM.snapshot, with one disk, and its VM is busy
 * with `snapshot` meanwhile: nothing may take the process away, or start another one.  A snapshot's
 * disk is frozen already and gets no overlay: what is made of it is a layer over it. */
#include "api/call.h"
#include "api/operation.h"
#include "api/plan.h"
#include "api/vdi_record.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* NULL: nobody. */
static const char *writer_of(struct task *t, const char *vdi)
{
	const struct VDI_row *row = db_seek(t, VDI, vdi);
	if (row && row->is_a_snapshot)
		return NULL;
	DB_EACH (t, VBD, vbd, "VDI", vdi)
		if (vbd->currently_attached && vbd->mode == vbd_mode_RW)
			return vbd->VM;
	return NULL;
}

static struct plan *begin(struct task *t, const char *vdi, enum vdi_operations op)
{
	const char *writer = writer_of(t, vdi);
	struct VM_row *vm = writer ? operation_begin(t, writer, vm_operations_snapshot) : NULL;
	if (writer && !vm)
		return NULL;
	return plan_one(t, vm, vdi, op);
}

typedef int record_fn(struct task *, struct plan_disk *);

static int record(struct task *t, struct plan *p, record_fn *record_disk, const char **ret)
{
	DB_SCOPE(t);
	if (plan_check(t, p) < 0 || record_disk(t, &p->v[0]) < 0 ||
	    plan_record_overlays(t, p) < 0 || operation_end(t) < 0)
		return -1;
	*ret = p->v[0].new_vdi;
	return db_commit(t);
}

/* The volumes are there: the instant, and the rows. */
static int finish(struct task *t, struct plan *p, record_fn *record_disk, const char *what,
		  const char **ret)
{
	if (plan_prepare(t, p) < 0 || plan_switch(t, p) < 0)
		return -1;
	plan_tidy(t, p);
	if (record(t, p, record_disk, ret) < 0)
		return -1;
	plan_refresh(t, p);
	log_line(t, "disk %s vdi=%s pause_ms=%.1f", what, p->v[0].vdi->uuid, p->pause_ms);
	talloc_free(p->hold);
	return 0;
}

int VDI_snapshot(struct task *t, struct VDI_snapshot *a)
{
	struct plan *p = begin(t, a->vdi, vdi_operations_snapshot);
	if (!p)
		return -1;
	int made = p->v[0].vdi->is_a_snapshot ? plan_copies(t, p) : plan_overlays(t, p);
	if (made < 0)
		return -1;
	return finish(t, p, vdi_record_snapshot, "snapshotted", &a->result);
}

int VDI_clone(struct task *t, struct VDI_clone *a)
{
	struct plan *p = begin(t, a->vdi, vdi_operations_clone);
	if (!p || plan_overlays(t, p) < 0 || plan_copies(t, p) < 0)
		return -1;
	return finish(t, p, vdi_record_clone, "cloned", &a->result);
}
