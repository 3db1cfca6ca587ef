// SPDX-License-Identifier: Apache-2.0
/* install.c -- VMs with all that belongs to them: made from a template or a snapshot, and
 * deleted together with their disks and snapshots. */
#include "cli/cli.h"

#include "api/install.h"
#include "api/vm.h"
#include "api/words.h"

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

static int vm_install(struct cli *c)
{
	struct SR_row *sr;
	struct VM_row *from = wanted_template(c);
	if (!from || select_sr(c, &sr) < 0 || check_sr(c, from, sr) < 0)
		return -1;

	struct install i = { .from = from->row.ref,
			     .name = cli_arg(c, "new-name-label"),
			     .sr = sr ? sr->row.ref : NULL };
	return cli_call(c, install, &i) < 0 ? -1 : cli_uuid(c, &class_VM, i.result);
}
