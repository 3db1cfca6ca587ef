// SPDX-License-Identifier: Apache-2.0
/* install.c -- VMs with all that belongs to them: made from a template or a snapshot, and
 * deleted together with their disks and snapshots. */
#include "cli/cli.h"

#include "api/provision.h"
#include "api/record.h"
#include "api/vm.h"

static command_fn vm_install, vm_uninstall, template_uninstall;

const struct command commands_install[] = {
	{ "vm-install", vm_install, STANDARD, "new-name-label",
	  "template,template-uuid,template-name-label,sr-uuid,sr-name-label",
	  "Makes a VM of a template or a snapshot, named by uuid or name; its disks come into the "
	  "SR "
	  "that is named, or the pool's default one; prints its uuid." },
	{ "vm-uninstall", vm_uninstall, STANDARD | VM_SELECTORS, "", "force",
	  "Deletes a VM, its disks, its snapshots and theirs; asks first, except with --force." },
	{ "template-uninstall", template_uninstall, STANDARD, "template-uuid", "force",
	  "Deletes a template and its disks; asks first, except with --force." },
	{ 0 },
};

/* ---- deleting ---- */

static void preview(struct cli *c, const struct doomed *d)
{
	thin_print(c->thin, "The following items are about to be destroyed");
	for (size_t i = 0; i < d->vms.n; i++)
		thin_print(c->thin, str(c->t, "VM : %s", ref_shown(c->t, d->vms.v[i])));
	for (size_t i = 0; i < d->vdis.n; i++)
		thin_print(c->thin, str(c->t, "VDI: %s", ref_shown(c->t, d->vdis.v[i])));
}

int doomed_uninstall(struct cli *c, struct doomed *d)
{
	bool force = false;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	doomed_spare(c->t, d);
	if (!force) {
		preview(c, d);
		if (!cli_confirmed(c))
			return 0;
	}
	if (doomed_destroy(c->t, d) < 0)
		return -1;
	cli_print(c, "All objects destroyed");
	return 0;
}

static int uninstall_one(struct cli *c, struct VM_row *vm)
{
	struct doomed d = { 0 };
	doomed_add(c->t, &d, vm, true);
	return doomed_uninstall(c, &d);
}

static int vm_uninstall(struct cli *c)
{
	return for_vms(c, uninstall_one);
}

static int template_uninstall(struct cli *c)
{
	struct VM_row *vm = cli_object(c, VM, "template-uuid");
	if (!vm)
		return -1;
	if (!vm->is_a_template)
		return cli_fail(c, "%s is not a template", vm->uuid);
	if (vm_is_shipped(vm))
		return fail(c->t, VM_CANNOT_DELETE_DEFAULT_TEMPLATE, vm->row.ref);
	return uninstall_one(c, vm);
}

/* ---- installing ---- */

static bool answers_to(const struct VM_row *vm, const char *param, const char *value)
{
	bool by_uuid = !ends_with(param, "name-label"), by_name = !ends_with(param, "uuid");
	return (by_uuid && streq(vm->uuid, value)) || (by_name && streq(vm->name_label, value));
}

static struct VM_row *find_template(struct cli *c, const char *param, const char *value)
{
	struct VM_row *found = NULL;
	DB_EACH (c->t, VM, vm, "is_a_template", "true") {
		if (!answers_to(vm, param, value))
			continue;
		if (found)
			return cli_fail_ptr(c, "Multiple templates matched: use the uuid");
		found = vm;
	}
	return found ? found : cli_fail_ptr(c, "No templates matched");
}

static struct VM_row *wanted_template(struct cli *c)
{
	static const char *const params[] = { "template-uuid", "template-name-label", "template" };
	for (size_t i = 0; i < COUNT(params); i++)
		if (cli_arg(c, params[i]))
			return find_template(c, params[i], cli_arg(c, params[i]));
	return cli_fail_ptr(c, "Required parameter not found: template.");
}

static int check_sr(struct cli *c, const struct VM_row *from, const struct SR_row *sr)
{
	if (!sr || !from->is_a_snapshot)
		return 0;
	return cli_fail(c,
			"A VM made of a snapshot has its disks where the snapshot has them: leave "
			"out sr-uuid and sr-name-label, or use snapshot-copy");
}

/* A clone's disks are layers over the template's: it will do only where those are. */
static bool must_copy(struct task *t, const struct VM_row *from, const struct SR_row *sr)
{
	if (!sr)
		return false;
	DB_EACH (t, VBD, vbd, "VM", from->row.ref) {
		const struct VDI_row *vdi = db_seek(t, VDI, vbd->VDI);
		if (vdi && vbd->type == vbd_type_Disk && !streq(vdi->SR, sr->row.ref))
			return true;
	}
	return false;
}

/* The new VM's ref; NULL: failed. */
static const char *make_vm(struct cli *c, const struct VM_row *from, const struct SR_row *sr)
{
	const char *name = cli_arg(c, "new-name-label");
	if (must_copy(c->t, from, sr)) {
		struct VM_copy a = { .vm = from->row.ref, .new_name = name, .sr = sr->row.ref };
		return cli_call(c, VM_copy, &a) < 0 ? NULL : a.result;
	}
	struct VM_clone a = { .vm = from->row.ref, .new_name = name };
	return cli_call(c, VM_clone, &a) < 0 ? NULL : a.result;
}

/* The disks that the template asks for come into the SR, wherever it wants them. */
static int move_disks(struct cli *c, const char *ref, const struct SR_row *sr)
{
	struct VM_row *vm = db_get(c->t, VM, ref);
	const char *disks = vm ? map_get(&vm->other_config, "disks") : NULL;
	if (!vm || !sr || !disks)
		return vm ? 0 : -1;
	const char *moved = provision_move(c->t, disks, sr->uuid);
	if (!moved || record_map_remove(c->t, &class_VM, ref, "other_config", "disks") < 0)
		return -1;
	return record_map_add(c->t, &class_VM, ref, "other_config", "disks", moved);
}

static int finish_install(struct cli *c, const char *ref, const struct SR_row *sr)
{
	if (move_disks(c, ref, sr) < 0 ||
	    record_set(c->t, &class_VM, ref, "name_description", "Installed via xe CLI") < 0)
		return -1;
	return cli_call(c, VM_provision, (&(struct VM_provision){ .vm = ref }));
}

/* Takes the new VM back, on a task of its own: the first error is the user's. */
static void remove_vm(struct cli *c, const char *ref)
{
	struct task *t = task_new(c->t, c->t->name);
	struct doomed d = { 0 };
	t->session = c->t->session;
	struct VM_row *vm = db_seek(t, VM, ref);
	if (vm) {
		doomed_add(t, &d, vm, false);
		doomed_spare(t, &d);
		if (doomed_destroy(t, &d) < 0)
			cli_note(c, "Note: the VM %s could not be removed: %s", vm->uuid,
				 task_error(t));
	}
	talloc_free(t);
}

static int vm_install(struct cli *c)
{
	struct SR_row *sr;
	struct VM_row *from = wanted_template(c);
	if (!from || select_sr(c, &sr) < 0 || check_sr(c, from, sr) < 0)
		return -1;

	const char *ref = make_vm(c, from, sr);
	if (!ref)
		return -1;
	if (finish_install(c, ref, sr) < 0) {
		remove_vm(c, ref);
		return -1;
	}
	return cli_uuid(c, &class_VM, ref);
}
