// SPDX-License-Identifier: Apache-2.0
#include "api/vtpm.h"

#include "api/call.h"
#include "api/guests.h"
#include "api/operation.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/tpm.h"

static struct VTPM_row *of(struct task *t, const struct VM_row *vm)
{
	return *(struct VTPM_row **)db_find(t, &class_VTPM, "VM", vm->row.ref);
}

/* A VM that has a number is being started or runs, and its file counts: what an earlier process
 * left was taken away before the number was given.  None, or an empty one, is what is left when
 * the host went down before the first word was written. */
static const char *remembered(struct task *t, const struct VM_row *vm, const struct VTPM_row *vtpm)
{
	if (vm->domid < 0)
		return vtpm->contents;
	const char *now = tpm_read(t, guest_path(t, vm->uuid));
	if (!now) {
		log_line(t, "TPM not read vm=%s error=\"%s\"", vm->uuid, task_error(t));
		task_forgive(t);
	}
	return now && *now ? now : vtpm->contents;
}

const char *vtpm_now(struct task *t, const struct VM_row *vm)
{
	const struct VTPM_row *vtpm = of(t, vm);
	return vtpm ? remembered(t, vm, vtpm) : NULL;
}

const char *vtpm_remembers(struct task *t, const struct VM_row *vm)
{
	const struct VTPM_row *vtpm = of(t, vm);
	return vtpm ? vtpm->contents : NULL;
}

int vtpm_save(struct task *t, const struct VM_row *vm)
{
	struct VTPM_row *vtpm = of(t, vm);
	const char *now = vtpm ? remembered(t, vm, vtpm) : NULL;
	if (!vtpm || streq(now, vtpm->contents))
		return 0;
	vtpm->contents = now;
	return db_put(t, &vtpm->row);
}

int vtpm_copy(struct task *t, const struct VM_row *from, const char *then, const struct VM_row *to)
{
	struct VTPM_row *theirs = of(t, from), *own = of(t, to);
	if (theirs && theirs->is_unique && own)
		return 0;
	if (own && db_delete(t, &own->row) < 0)
		return -1;
	if (!theirs)
		return 0;
	struct VTPM_row *copy = (struct VTPM_row *)model_copy(t, &theirs->row);
	copy->VM = to->row.ref;
	copy->current_operations = (struct map){ 0 };
	copy->contents = theirs->is_unique ? "" : then ? then : remembered(t, from, theirs);
	return db_insert(t, &copy->row);
}

/* ---- made and destroyed ---- */

static struct VTPM_row *make(struct task *t, const char *vm, bool unique)
{
	struct VTPM_row *vtpm = row_new(t, VTPM);
	vtpm->VM = vm;
	vtpm->is_unique = unique;
	return db_insert(t, &vtpm->row) < 0 ? NULL : vtpm;
}

int vtpm_ensure(struct task *t, const struct VM_row *vm)
{
	const char *asked = map_get(&vm->platform, "vtpm");
	if (!asked || !streq(asked, "true") || of(t, vm))
		return 0;
	DB_SCOPE(t);
	return make(t, vm->row.ref, false) ? db_commit(t) : -1;
}

struct creation {
	struct task *task; /* of the result */
	struct VTPM_create *call;
};

static int try_to_create(struct task *t, void *arg)
{
	const struct creation *c = arg;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, c->call->vM);
	if (!vm || operation_check(t, vm, vm_operations_create_vtpm) < 0)
		return operation_tried(t);
	if (of(t, vm))
		return fail(t, VTPM_MAX_AMOUNT_REACHED, "1");
	struct VTPM_row *vtpm = make(t, c->call->vM, c->call->is_unique);
	if (!vtpm)
		return -1;
	c->call->result = talloc_strdup(c->task, vtpm->row.ref);
	return db_commit(t) < 0 ? -1 : 1;
}

int VTPM_create(struct task *t, struct VTPM_create *a)
{
	return operation_wait(t, try_to_create, &(struct creation){ t, a });
}

/* The rules are those of making one. */
static int try_to_destroy(struct task *t, void *arg)
{
	const struct VTPM_destroy *a = arg;
	DB_SCOPE(t);
	struct VTPM_row *vtpm = db_get(t, VTPM, a->self);
	struct VM_row *vm = vtpm ? db_get(t, VM, vtpm->VM) : NULL;
	if (!vm || operation_check(t, vm, vm_operations_create_vtpm) < 0)
		return operation_tried(t);
	return db_delete(t, &vtpm->row) < 0 || db_commit(t) < 0 ? -1 : 1;
}

int VTPM_destroy(struct task *t, struct VTPM_destroy *a)
{
	return operation_wait(t, try_to_destroy, a);
}
