// SPDX-License-Identifier: Apache-2.0
#include "api/vdi_transfer.h"

#include "api/call.h"
#include "api/coalesce.h"
#include "api/image.h"
#include "api/need.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/vdi.h"
#include "base/crash.h"
#include "base/task.h"
#include "db/db.h"
#include "db/journal.h"
#include "sr/header.h"

/* ---- out ---- */

static int check_fits(struct task *t, const struct VDI_row *vdi, const struct image_format *f)
{
	if (!f->limit || (uint64_t)vdi->virtual_size <= f->limit)
		return 0;
	return fail(t, VDI_TOO_LARGE, vdi->row.ref, str(t, "%llu", (unsigned long long)f->limit));
}

static int check_export(struct task *t, const struct VDI_row *vdi, const void *format)
{
	return need_check(t, vdi, NEED_READ, "export") < 0 ? -1 : check_fits(t, vdi, format);
}

/* What leaves is what the disk shows when it begins: a snapshot or a clone that comes meanwhile puts a layer over the
 * volume that is read, and no guest gets the disk. */
static int run_export(struct task *t, void *args)
{
	struct vdi_export *a = args;
	if (!operation_begin_vdi(t, a->vdi, vdi_operations_copy, check_export, a->format) ||
	    coalesce_hold(t, t->scope, a->vdi, true) < 0)
		return -1;
	struct VDI_row *vdi = db_get(t, VDI, a->vdi);
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	if (!sr || check_export(t, vdi, a->format) < 0 ||
	    image_export(t, sr, vdi->location, a->format, a->out) < 0)
		return -1;
	return operation_end(t);
}

/* ---- in ---- */

/* The storage names its volume; a user knows the disk. */
static int say_which(struct task *t, const char *vdi)
{
	if (t->code == VDI_TOO_SMALL) {
		const char *minimum = talloc_strdup(t, t->params[1]);
		task_forgive(t);
		fail(t, VDI_TOO_SMALL, vdi, minimum);
	}
	return -1;
}

static int import_over(struct task *t, struct vdi_import *a)
{
	struct VDI_row *vdi = vdi_begin_overwrite(t, a->vdi, "import");
	const struct sr *sr = vdi ? storage_sr(t, vdi->SR) : NULL;
	if (!sr)
		return -1;
	struct intake i = {
		.format = a->format,
		.source = &a->source,
		.sr = sr,
		.vdi = a->vdi,
		.room = (uint64_t)vdi->virtual_size,
	};
	int result = intake_judge(t, &i);
	if (result == 0) {
		a->touched = true;
		result = intake_pour(t, &i, sr, vdi->location);
	}
	intake_end(&i);
	if (result < 0)
		return say_which(t, a->vdi);
	a->result = a->vdi;
	storage_refresh(t, vdi->SR, (const char *[]){ a->vdi, NULL });
	return operation_end(t);
}

static int record(struct task *t, struct VDI_row *vdi)
{
	DB_SCOPE(t);
	vdi->name_label = "Imported VDI";
	vdi->type = vdi_type_user;
	if (db_insert(t, &vdi->row) < 0 || journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* The disk is as large as the image says, or as the raw bytes are. */
static struct VDI_row *make(struct task *t, struct vdi_import *a, const struct sr *sr)
{
	struct intake i = {
		.format = a->format,
		.source = &a->source,
		.sr = sr,
		.vdi = NULL_REF,
		.room = HEADER_SIZE_MAX,
	};
	struct VDI_row *vdi = NULL;
	if (intake_judge(t, &i) == 0)
		vdi = vdi_make(t, a->sr, (int64_t)i.size);
	crash_point();
	if (vdi && intake_pour(t, &i, sr, vdi->location) < 0)
		vdi = NULL;
	crash_point();
	intake_end(&i);
	return vdi;
}

static int import_new(struct task *t, struct vdi_import *a)
{
	const struct sr *sr = storage_writable_sr(t, a->sr);
	struct VDI_row *vdi = sr ? make(t, a, sr) : NULL;
	if (!vdi || record(t, vdi) < 0)
		return -1;
	a->result = vdi->row.ref;
	storage_refresh(t, a->sr, (const char *[]){ a->result, NULL });
	return 0;
}

static int run_import(struct task *t, void *args)
{
	struct vdi_import *a = args;
	return ref_is_null(a->vdi) ? import_new(t, a) : import_over(t, a);
}

/* ---- both ---- */

static const struct call call_export = {
	.name = "VDI.export_raw", .result = VOID, .role = role_vm_admin, .run = run_export
};
static const struct call call_import = { .name = "VDI.import_raw",
					 .result = REF,
					 .role = role_vm_admin,
					 .result_offset = offsetof(struct vdi_import, result),
					 .run = run_import };

int vdi_export(struct task *t, struct vdi_export *a)
{
	return api_call(t, &call_export, a);
}

int vdi_import(struct task *t, struct vdi_import *a)
{
	return api_call(t, &call_import, a);
}
