// SPDX-License-Identifier: Apache-2.0
/* vdi_copy.c -- VDI.copy: a disk of its own, in any SR, with what another one shows; or the same onto a
 * disk that there is, whose content is undefined when that fails. */
#include "api/call.h"
#include "api/coalesce.h"
#include "api/operation.h"
#include "api/storage.h"
#include "api/vdi.h"
#include "api/vdi_record.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

struct VDI_row *vdi_make_copy(struct task *t, const struct VDI_row *from, const char *sr_ref)
{
	const struct sr *below = storage_sr(t, from->SR);
	struct VDI_row *made = below ? vdi_make(t, sr_ref, from->virtual_size) : NULL;
	const struct sr *to = made ? storage_sr(t, sr_ref) : NULL;
	if (!to || sr_copy(t, below, from->location, to, made->location) < 0)
		return NULL;
	return made;
}

static int check_whole(struct task *t, const struct VDI_copy *a)
{
	if (ref_is_null(a->base_vdi))
		return 0;
	return fail(t, VALUE_NOT_SUPPORTED, "base_vdi", a->base_vdi,
		    "a copy is always of a whole disk");
}

static int check(struct task *t, const struct VDI_row *vdi, const void *unused)
{
	(void)unused;
	return operation_check_vdi(t, vdi, vdi_operations_copy);
}

/* Its volume is the one that it has now, whatever layers it may get meanwhile. */
static struct VDI_row *begin(struct task *t, const char *ref)
{
	if (!operation_begin_vdi(t, ref, vdi_operations_copy, check, NULL) ||
	    coalesce_hold(t, t->scope, ref, true) < 0)
		return NULL;
	return db_get(t, VDI, ref);
}

static int copy_into(struct task *t, const struct VDI_row *vdi, const char *ref)
{
	struct VDI_row *into = vdi_begin_overwrite(t, ref, "copy");
	const struct sr *from = into ? storage_sr(t, vdi->SR) : NULL;
	const struct sr *to = from ? storage_sr(t, into->SR) : NULL;
	if (!to)
		return -1;
	if (into->virtual_size < vdi->virtual_size)
		return fail(t, VDI_TOO_SMALL, ref, str(t, "%lld", (long long)vdi->virtual_size));
	if (sr_copy_over(t, from, vdi->location, to, into->location) < 0 || operation_end(t) < 0)
		return -1;
	storage_refresh(t, into->SR, (const char *[]){ ref, NULL });
	log_line(t, "disk copied vdi=%s into=%s", vdi->uuid, into->uuid);
	return 0;
}

static int copy_new(struct task *t, const struct VDI_row *vdi, const char *sr, const char **ret)
{
	struct VDI_row *made = vdi_make_copy(t, vdi, sr);
	if (!made)
		return -1;
	{
		DB_SCOPE(t);
		if (vdi_record_copy(t, vdi->row.ref, made, ret) < 0 || operation_end(t) < 0 ||
		    db_commit(t) < 0)
			return -1;
	}
	storage_refresh(t, sr, (const char *[]){ *ret, NULL });
	log_line(t, "disk copied vdi=%s", vdi->uuid);
	return 0;
}

int VDI_copy(struct task *t, struct VDI_copy *a)
{
	if (check_whole(t, a) < 0 || storage_check_target(t, a->sr) < 0)
		return -1;
	struct VDI_row *vdi = begin(t, a->vdi);
	if (!vdi)
		return -1;
	if (ref_is_null(a->into_vdi))
		return copy_new(t, vdi, ref_is_null(a->sr) ? vdi->SR : a->sr, &a->result);
	if (copy_into(t, vdi, a->into_vdi) < 0)
		return -1;
	a->result = a->into_vdi;
	return 0;
}
