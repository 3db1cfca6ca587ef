// SPDX-License-Identifier: Apache-2.0
#include "api/need.h"

#include "api/vm.h"
#include "base/task.h"
#include "db/db.h"

/* Who has the disk, or counts on it. */
enum {
	READER = 1,          /* a drive that is attached and only reads */
	WRITER = 2,          /* a drive that is attached and may write */
	WRITERS = 4,         /* more than one of these */
	KEPT = 8,            /* a checkpoint's drive says that it was attached */
	MEMORY = 16,         /* it is the memory of a VM that is suspended */
	KEPT_MEMORY = 32,    /* ... of a checkpoint */
	VARIABLES = 64,      /* it is the store of a VM's or a snapshot's UEFI variables */
	OPEN_VARIABLES = 128 /* ... of a VM that is not halted */
};

#define DRIVES (READER | WRITER | KEPT)
#define MEMORIES (MEMORY | KEPT_MEMORY)

/* Who stands against it. */
static const int against[] = {
	[NEED_READ] = WRITER | OPEN_VARIABLES,
	[NEED_LAYER] = MEMORIES | VARIABLES,
	[NEED_RESIZE] = DRIVES | MEMORIES | VARIABLES,
	[NEED_RESIZE_ONLINE] = READER | WRITERS | KEPT | MEMORIES | VARIABLES,
	[NEED_ATTACH] = MEMORIES | VARIABLES,
	[NEED_WRITE] = DRIVES | MEMORIES | VARIABLES,
	[NEED_REMOVE] = DRIVES | MEMORIES | VARIABLES,
	[NEED_UNPLUG] = READER | WRITER | MEMORY | OPEN_VARIABLES,
};

static bool is_snapshot(struct task *t, const char *vm)
{
	const struct VM_row *row = db_seek(t, VM, vm);
	return row && row->is_a_snapshot;
}

static bool reboots(const struct VM_row *vm)
{
	for (size_t i = 0; i < vm->current_operations.n; i++)
		if (streq(vm->current_operations.v[i].value, "clean_reboot"))
			return true;
	return false;
}

bool need_holds(struct task *t, const struct VBD_row *vbd)
{
	const struct VM_row *vm = db_seek(t, VM, vbd->VM);
	return vbd->currently_attached || (vm && reboots(vm));
}

static int drives(struct task *t, const struct VDI_row *vdi)
{
	int found = 0;
	DB_EACH (t, VBD, vbd, "VDI", vdi->row.ref) {
		bool writes = vbd->mode == vbd_mode_RW && !vdi->is_a_snapshot;
		if (!need_holds(t, vbd))
			continue;
		if (is_snapshot(t, vbd->VM))
			found |= KEPT;
		else if (!writes)
			found |= READER;
		else
			found |= found & WRITER ? WRITERS : WRITER;
	}
	return found;
}

static int memories(struct task *t, const struct VDI_row *vdi)
{
	int found = 0;
	DB_EACH (t, VM, vm, "suspend_VDI", vdi->row.ref)
		found |= vm->is_a_snapshot ? KEPT_MEMORY : MEMORY;
	return found;
}

static int stores(struct task *t, const struct VDI_row *vdi)
{
	int found = 0;
	DB_EACH (t, VM, vm, "NVRAM_VDI", vdi->row.ref) {
		bool open = !vm->is_a_snapshot && vm->power_state != vm_power_state_Halted;
		found |= VARIABLES | (open ? OPEN_VARIABLES : 0);
	}
	return found;
}

int need_check(struct task *t, const struct VDI_row *vdi, enum need_deed deed, const char *what)
{
	int users = drives(t, vdi) | memories(t, vdi) | stores(t, vdi);
	return users & against[deed] ? fail(t, VDI_IN_USE, vdi->row.ref, what) : 0;
}
