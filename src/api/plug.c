// SPDX-License-Identifier: Apache-2.0
/* plug.c -- VBD.plug, VBD.unplug, VIF.plug, VIF.unplug.
 *
 * A guest may let go of a device at once, late or never.  So the VM, not the row, is the truth about
 * what is attached: whatever fails, dies half-way or comes late, it is asked (plug_settle).
 *
 * Both classes go the same way; what differs is in one table. */
#include "api/plug.h"

#include "api/boot.h"
#include "api/coalesce.h"
#include "api/call.h"
#include "api/guests.h"
#include "api/operation.h"
#include "api/settings.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

struct device {
	const struct class *class;
	struct row *row;
	const struct VM_row *vm;
	const char *id; /* in the VMM */
};

typedef int plug_deed(struct task *, struct vmm *, const struct device *);

struct kind_row {
	const struct class *class;
	const char *prefix; /* of the id; the position follows */
	const char *position;
	plug_deed *unplug;
};

/* ---- disks ---- */

static int plug_vbd(struct task *t, struct vmm *vmm, const struct device *d)
{
	struct vmm_disk disk = { 0 };
	if (boot_disk(t, d->vm, (const struct VBD_row *)d->row, &disk) < 0)
		return -1;
	return settings.vmm->plug_disk(t, vmm, &disk);
}

static int unplug_vbd(struct task *t, struct vmm *vmm, const struct device *d)
{
	struct vmm_disk disk = { 0 };
	if (boot_disk(t, d->vm, (const struct VBD_row *)d->row, &disk) < 0)
		return -1;
	return settings.vmm->unplug_disk(t, vmm, &disk);
}

/* ---- interfaces ---- */

static int plug_vif(struct task *t, struct vmm *vmm, const struct device *d)
{
	struct vmm_nic nic = { .tap = -1 };
	if (boot_nic(t, d->vm, (const struct VIF_row *)d->row, &nic) < 0)
		return -1;
	int result = settings.vmm->plug_nic(t, vmm, &nic);
	fd_close(&nic.tap);
	return result;
}

static int unplug_vif(struct task *t, struct vmm *vmm, const struct device *d)
{
	return settings.vmm->unplug_nic(t, vmm, d->id);
}

static const struct kind_row kinds[] = {
	{ &class_VBD, "disk-", "userdevice", unplug_vbd },
	{ &class_VIF, "nic-", "device", unplug_vif },
};

/* ---- what both have ---- */

static const struct kind_row *kind_of(const struct class *c)
{
	return c == kinds[0].class ? &kinds[0] : &kinds[1];
}

static const char *text_of(struct task *t, const struct row *r, const char *field)
{
	return field_text(t, r, model_field(r->class, field));
}

static bool is_attached(struct task *t, const struct row *r)
{
	return streq(text_of(t, r, "currently_attached"), "true");
}

static int set_attached(struct task *t, struct row *r, bool attached)
{
	const struct field *f = model_field(r->class, "currently_attached");
	if (r->class == &class_VBD) {
		struct VBD_row *vbd = (struct VBD_row *)r;
		vbd->device = attached ? vbd_device_name(t, vbd->userdevice) : "";
	}
	return field_parse(t, r, f, attached ? "true" : "false") < 0 ? -1 : db_put(t, r);
}

/* False: the row or its VM has gone. */
static bool device_of(struct task *t, const struct class *c, const char *ref, struct device *ret)
{
	struct row *r = db_seek_row(t, c, ref);
	bool there = r && db_seek(t, VM, text_of(t, r, "VM"));
	const struct VM_row *vm = there ? vm_as_started(t, text_of(t, r, "VM")) : NULL;
	if (!vm)
		return false;
	const struct kind_row *k = kind_of(c);
	*ret = (struct device){ c, r, vm, str(t, "%s%s", k->prefix, text_of(t, r, k->position)) };
	return true;
}

/* ---- settling ---- */

static int record_attached(struct task *t, const struct class *c, const char *ref, bool attached)
{
	DB_SCOPE(t);
	struct row *r = db_seek_row(t, c, ref);
	if (!r || is_attached(t, r) == attached)
		return 0;
	if (set_attached(t, r, attached) < 0)
		return -1;
	log_line(t, "device settled class=%s uuid=%s attached=%d", c->name, row_uuid(r), attached);
	return db_commit(t);
}

int plug_settle(struct task *t, const struct class *c, const char *ref)
{
	struct device d;
	bool present = false;
	void *hold = talloc_new(t);
	if (!device_of(t, c, ref, &d))
		return 0;
	struct vmm *vmm = NULL;
	int result = guest_find(t, hold, d.vm->row.ref, &vmm);
	if (vmm)
		result = settings.vmm->present(t, vmm, d.id, &present);
	if (result == 0 && vmm && !present)
		result = kind_of(c)->unplug(t, vmm, &d);
	if (result < 0 && !guest_alive(d.vm->row.ref)) {
		task_forgive(t); /* it ended meanwhile, and has nothing any more */
		result = 0;
	}
	talloc_free(hold);
	return result < 0 ? -1 : record_attached(t, c, ref, present);
}

static void settle_quietly(struct task *t, const struct row *r)
{
	if (plug_settle(t, r->class, r->ref) < 0)
		log_line(t, "device not settled class=%s uuid=%s error=\"%s\"", r->class->name,
			 row_uuid(r), task_error(t));
	task_forgive(t);
}

void plug_settle_all(struct task *t, const char *vm)
{
	for (size_t i = 0; i < COUNT(kinds); i++)
		for (struct row **r = db_find(t, kinds[i].class, "VM", vm); *r; r++)
			settle_quietly(t, *r);
}

/* What is under way settles by itself; and nothing begins meanwhile, for of a device that is not there yet
 * everything would be closed. */
static void gone(struct task *t, const struct row *r)
{
	struct task *own = task_new(t, t->name);
	own->ref = own->op = ref_new(own);
	if (operation_take_device(own, r->class, r->ref, "unplug"))
		settle_quietly(own, r);
	undo_run(own);
	talloc_free(own);
}

void plug_gone(struct task *t, const char *vm, const char *id)
{
	for (size_t i = 0; i < COUNT(kinds); i++)
		for (struct row **r = db_find(t, kinds[i].class, "VM", vm); *r; r++) {
			const char *position = text_of(t, *r, kinds[i].position);
			if (is_attached(t, *r) &&
			    streq(id, str(t, "%s%s", kinds[i].prefix, position)))
				gone(t, *r);
		}
}

/* ---- the calls ---- */

static int check_running(struct task *t, const struct device *d)
{
	if (d->vm->power_state == vm_power_state_Running)
		return 0;
	return bad_power_state(t, d->vm, "running");
}

/* The device as it is now, and its VM, which runs. */
static int look(struct task *t, const struct class *c, const char *ref, bool attached,
		struct device *ret)
{
	if (!device_of(t, c, ref, ret))
		return fail(t, HANDLE_INVALID, c->name, ref);
	if (check_running(t, ret) < 0)
		return -1;
	if (is_attached(t, ret->row) == attached)
		return 0;
	return attached ? fail(t, DEVICE_ALREADY_DETACHED, ref)
			: fail(t, DEVICE_ALREADY_ATTACHED, ref);
}

/* Its disk, too, is busy: no snapshot is taken of what comes or goes.  To wait for a merge may
 * take long. */
static int take_disk(struct task *t, const struct device *d)
{
	const char *vdi = d->class == &class_VBD ? text_of(t, d->row, "VDI") : NULL_REF;
	if (ref_is_null(vdi))
		return 0;
	if (!operation_begin_vdi(t, vdi, vdi_operations_blocked, NULL, NULL))
		return -1;
	return coalesce_hold(t, t->scope, vdi, true);
}

static int begin(struct task *t, const struct class *c, const char *ref, const char *op,
		 bool attached, struct device *ret)
{
	if (!operation_begin_device(t, c, ref, op) || look(t, c, ref, attached, ret) < 0 ||
	    take_disk(t, ret) < 0 || look(t, c, ref, attached, ret) < 0)
		return -1;
	return undo_device_settle(t, c->name, ref);
}

static int finish(struct task *t, const struct device *d, bool attached)
{
	DB_SCOPE(t);
	struct row *r = db_get_row(t, d->class, d->row->ref);
	if (!r || set_attached(t, r, attached) < 0 || operation_end(t) < 0)
		return -1;
	return db_commit(t);
}

static int carry_out(struct task *t, const struct device *d, plug_deed *deed, bool attached)
{
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, d->vm);
	int result = vmm ? deed(t, vmm, d) : -1;
	talloc_free(hold);
	if (result == 0)
		return finish(t, d, attached);
	if (t->code != DEVICE_DETACH_TIMEOUT)
		return -1;
	task_forgive(t); /* the VMM knows no refs */
	return fail(t, DEVICE_DETACH_TIMEOUT, d->class->name, d->row->ref);
}

int VBD_plug(struct task *t, struct VBD_plug *a)
{
	struct device d;
	if (begin(t, &class_VBD, a->self, "plug", false, &d) < 0)
		return -1;
	struct VBD_row *vbd = (struct VBD_row *)d.row;
	if (vbd->empty)
		return fail(t, VBD_IS_EMPTY, a->self);
	if (vbd_check_free(t, vbd) < 0)
		return -1;
	return carry_out(t, &d, plug_vbd, true);
}

int VBD_unplug(struct task *t, struct VBD_unplug *a)
{
	struct device d;
	if (begin(t, &class_VBD, a->self, "unplug", true, &d) < 0)
		return -1;
	if (!((struct VBD_row *)d.row)->unpluggable)
		return fail(t, OPERATION_NOT_ALLOWED,
			    "the drive is marked as one that is not unplugged (unpluggable=false)");
	return carry_out(t, &d, unplug_vbd, false);
}

int VBD_unplug_force(struct task *t, struct VBD_unplug_force *a)
{
	struct device d;
	if (begin(t, &class_VBD, a->self, "unplug_force", true, &d) < 0)
		return -1;
	return carry_out(t, &d, unplug_vbd, false);
}

int VIF_plug(struct task *t, struct VIF_plug *a)
{
	struct device d;
	if (begin(t, &class_VIF, a->self, "plug", false, &d) < 0)
		return -1;
	return carry_out(t, &d, plug_vif, true);
}

int VIF_unplug(struct task *t, struct VIF_unplug *a)
{
	struct device d;
	if (begin(t, &class_VIF, a->self, "unplug", true, &d) < 0)
		return -1;
	return carry_out(t, &d, unplug_vif, false);
}

/* A guest that does not let go of it keeps it: there is no other way to take a device out of a QEMU. */
int VIF_unplug_force(struct task *t, struct VIF_unplug_force *a)
{
	return VIF_unplug(t, &(struct VIF_unplug){ .self = a->self });
}
