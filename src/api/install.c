// SPDX-License-Identifier: Apache-2.0
#include "api/install.h"

#include "api/call.h"
#include "api/provision.h"
#include "api/undo.h"
#include "api/vm_copy.h"
#include "base/task.h"
#include "base/text.h"
#include "db/db.h"

/* A clone's disks are layers over the template's: it will do only where those are. */
static bool must_copy(struct task *t, const struct install *i)
{
	if (!i->sr)
		return false;
	DB_EACH (t, VBD, vbd, "VM", i->from) {
		const struct VDI_row *vdi = db_seek(t, VDI, vbd->VDI);
		if (vdi && vbd->type == vbd_type_Disk && !streq(vdi->SR, i->sr))
			return true;
	}
	return false;
}

static int make(struct task *t, const struct install *i)
{
	if (!must_copy(t, i))
		return vm_clone_as(t, &(struct VM_clone){ .vm = i->from, .new_name = i->name },
				   i->result);
	struct VM_copy a = { .vm = i->from, .new_name = i->name, .sr = i->sr };
	return vm_full_copy_as(t, &a, i->result);
}

/* The disks that the template asks for come into the SR, wherever it wants them. */
static int move_disks(struct task *t, const struct install *i, struct VM_row *vm)
{
	const struct SR_row *sr = i->sr ? db_get(t, SR, i->sr) : NULL;
	const char *disks = map_get(&vm->other_config, "disks");
	if (!i->sr || !disks)
		return 0;
	const char *moved = sr ? provision_move(t, disks, sr->uuid) : NULL;
	if (!moved)
		return -1;
	map_set(vm, &vm->other_config, "disks", moved);
	return 0;
}

static int describe(struct task *t, const struct install *i)
{
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, i->result);
	if (!vm || move_disks(t, i, vm) < 0)
		return -1;
	vm->name_description = "Installed via xe CLI";
	return db_put(t, &vm->row) < 0 ? -1 : db_commit(t);
}

static int note(struct task *t, const char *ref)
{
	const char *op = undo_later(t);
	int noted = undo_template_delete(t, ref);
	undo_now(t, op);
	return noted;
}

static int run(struct task *t, void *arg)
{
	struct install *i = arg;
	i->result = ref_new(t);
	if (note(t, i->result) < 0 || make(t, i) < 0 || describe(t, i) < 0)
		return -1;
	return VM_provision(t, &(struct VM_provision){ .vm = i->result });
}

const struct call call_install = {
	.name = "VM.install", .result = VOID, .role = role_vm_admin, .run = run, .waited = true
};
