// SPDX-License-Identifier: Apache-2.0
/* vm.c -- the life of VMs: create, clone, start, stop, destroy, and what one sees of them. */
#include "cli/cli.h"

#include "api/console.h"
#include "api/message.h"
#include "api/record.h"

static command_fn vm_clone, vm_copy, vm_create, vm_destroy, vm_start, vm_shutdown, vm_reboot,
	vm_pause, vm_unpause, vm_suspend, vm_resume, vm_memory_limits_set, vm_disk_list,
	vm_vif_list, console, vm_reset_powerstate, vm_memory_set;

const struct command commands_vm[] = {
	{ "vm-clone", vm_clone, STANDARD | VM_SELECTORS | TEMPLATES_TOO, "new-name-label",
	  "new-name-description",
	  "Makes a VM whose disks are layers over those of a halted one; prints its uuid." },
	{ "vm-copy", vm_copy, STANDARD | VM_SELECTORS | TEMPLATES_TOO, "new-name-label",
	  "new-name-description,sr-uuid",
	  "Makes a VM with full copies of the disks of a halted one, in the SR that sr-uuid names "
	  "or "
	  "where each disk is; prints its uuid." },
	{ "vm-create", vm_create, 0, "name-label", "name-description",
	  "Makes a halted VM without devices; prints its uuid." },
	{ "vm-destroy", vm_destroy, 0, "uuid", "", "Deletes a VM; its disks stay." },
	{ "vm-start", vm_start, STANDARD | VM_SELECTORS, "", "force,on,paused",
	  "Starts a VM, with paused=true without letting it run." },
	{ "vm-shutdown", vm_shutdown, STANDARD | VM_SELECTORS, "", "force",
	  "Asks the guest to shut down; --force pulls the plug." },
	{ "vm-reboot", vm_reboot, STANDARD | VM_SELECTORS, "", "force",
	  "Asks the guest to reboot; --force resets it." },
	{ "vm-pause", vm_pause, STANDARD | VM_SELECTORS, "", "", "Stops the VCPUs." },
	{ "vm-unpause", vm_unpause, STANDARD | VM_SELECTORS, "", "", "Lets the VCPUs go on." },
	{ "vm-suspend", vm_suspend, STANDARD | VM_SELECTORS, "", "",
	  "Writes the memory of a running VM to disk and ends its process." },
	{ "vm-resume", vm_resume, STANDARD | VM_SELECTORS, "", "force,on,paused",
	  "Lets a suspended VM go on, with paused=true without letting it run." },
	{ "vm-memory-limits-set", vm_memory_limits_set, VM_SELECTORS | TEMPLATES_TOO,
	  "static-min,static-max,dynamic-min,dynamic-max", "", "Sets all four memory limits." },
	{ "vm-memory-set", vm_memory_set, VM_SELECTORS | TEMPLATES_TOO, "memory", "",
	  "Sets how much memory a halted VM has: all four limits are that." },
	{ "vm-reset-powerstate", vm_reset_powerstate, VM_SELECTORS, "", "force",
	  "Pulls the plug of a VM, or gives the memory of a suspended one up, so that it is "
	  "halted; "
	  "only with --force." },
	{ "vm-disk-list", vm_disk_list, STANDARD | VM_SELECTORS | TEMPLATES_TOO, "",
	  "vbd-params,vdi-params", "Lists the disks of a VM." },
	{ "vm-vif-list", vm_vif_list, STANDARD | VM_SELECTORS | TEMPLATES_TOO, "", "params",
	  "Lists the network interfaces of a VM." },
	{ "console", console, VM_SELECTORS | ONE_VM, "", "",
	  "Connects the terminal to the serial port of a running VM." },
	{ 0 },
};

/* ---- making and deleting ---- */

int show_new_vm(struct cli *c, const char *ref)
{
	const char *description = cli_arg(c, "new-name-description");
	if (description && record_set(c->t, &class_VM, ref, "name_description", description) < 0)
		return -1;
	return cli_uuid(c, &class_VM, ref);
}

int clone_vm(struct cli *c, struct VM_row *vm)
{
	struct VM_clone a = { .vm = vm->row.ref, .new_name = cli_arg(c, "new-name-label") };
	return cli_call(c, VM_clone, &a) < 0 ? -1 : show_new_vm(c, a.result);
}

static int vm_clone(struct cli *c)
{
	return for_vms(c, clone_vm);
}

int copy_vm(struct cli *c, struct VM_row *vm)
{
	struct SR_row *sr;
	if (select_sr(c, &sr) < 0)
		return -1;
	struct VM_copy a = {
		.vm = vm->row.ref,
		.new_name = cli_arg(c, "new-name-label"),
		.sr = sr ? sr->row.ref : NULL_REF,
	};
	return cli_call(c, VM_copy, &a) < 0 ? -1 : show_new_vm(c, a.result);
}

static int vm_copy(struct cli *c)
{
	return for_vms(c, copy_vm);
}

static int vm_create(struct cli *c)
{
	const char *description = cli_arg(c, "name-description");
	struct VM_create a = {
		.name_label = cli_arg(c, "name-label"),
		.name_description = description ? description : "",
		.suspend_VDI = NULL_REF,
	};
	if (cli_call(c, VM_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VM, a.result);
}

static int vm_destroy(struct cli *c)
{
	struct VM_row *vm = cli_object(c, VM, "uuid");
	if (!vm)
		return -1;
	return cli_call(c, VM_destroy, (&(struct VM_destroy){ .self = vm->row.ref }));
}

/* ---- running and stopping ---- */

static int start_one(struct cli *c, struct VM_row *vm)
{
	struct VM_start a = { .vm = vm->row.ref };
	if (cli_bool(c, "paused", &a.start_paused) < 0)
		return -1;
	if (cli_arg(c, "on") && !select_host(c, cli_arg(c, "on")))
		return -1;
	return cli_call(c, VM_start, &a);
}

static int vm_start(struct cli *c)
{
	return for_vms(c, start_one);
}

static int shutdown_one(struct cli *c, struct VM_row *vm)
{
	bool force = false;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	if (force)
		return cli_call(c, VM_hard_shutdown,
				(&(struct VM_hard_shutdown){ .vm = vm->row.ref }));
	return cli_call(c, VM_clean_shutdown, (&(struct VM_clean_shutdown){ .vm = vm->row.ref }));
}

static int vm_shutdown(struct cli *c)
{
	return for_vms(c, shutdown_one);
}

static int reboot_one(struct cli *c, struct VM_row *vm)
{
	bool force = false;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	if (force)
		return cli_call(c, VM_hard_reboot, (&(struct VM_hard_reboot){ .vm = vm->row.ref }));
	return cli_call(c, VM_clean_reboot, (&(struct VM_clean_reboot){ .vm = vm->row.ref }));
}

static int vm_reboot(struct cli *c)
{
	return for_vms(c, reboot_one);
}

static int pause_one(struct cli *c, struct VM_row *vm)
{
	return cli_call(c, VM_pause, (&(struct VM_pause){ .vm = vm->row.ref }));
}

static int vm_pause(struct cli *c)
{
	return for_vms(c, pause_one);
}

static int unpause_one(struct cli *c, struct VM_row *vm)
{
	return cli_call(c, VM_unpause, (&(struct VM_unpause){ .vm = vm->row.ref }));
}

static int vm_unpause(struct cli *c)
{
	return for_vms(c, unpause_one);
}

static int suspend_one(struct cli *c, struct VM_row *vm)
{
	int64_t start = clock_ms();
	if (cli_call(c, VM_suspend, (&(struct VM_suspend){ .vm = vm->row.ref })) < 0)
		return -1;
	cli_note(c, "suspended in %lld ms", (long long)(clock_ms() - start));
	return 0;
}

static int vm_suspend(struct cli *c)
{
	return for_vms(c, suspend_one);
}

void note_message(struct cli *c, const char *vm_uuid, const char *name)
{
	struct message_row *last = NULL;
	DB_EACH (c->t, message, m, "obj_uuid", vm_uuid)
		if (streq(m->name, name) && (!last || strcmp(m->timestamp, last->timestamp) >= 0))
			last = m;
	if (!last)
		return;
	if (last->priority < MESSAGE_INFORMATION)
		cli_warn(c, last->body);
	else
		cli_note(c, "%s", last->body);
}

int resume_vm(struct cli *c, struct VM_resume *a)
{
	struct VM_row *vm = db_get(c->t, VM, a->vm);
	if (!vm || cli_call(c, VM_resume, a) < 0)
		return -1;
	note_message(c, vm->uuid, VM_RESUMED);
	return 0;
}

static int resume_one(struct cli *c, struct VM_row *vm)
{
	struct VM_resume a = { .vm = vm->row.ref };
	if (cli_bool(c, "paused", &a.start_paused) < 0 || cli_bool(c, "force", &a.force) < 0 ||
	    (cli_arg(c, "on") && !select_host(c, cli_arg(c, "on"))))
		return -1;
	return resume_vm(c, &a);
}

static int vm_resume(struct cli *c)
{
	return for_vms(c, resume_one);
}

static int limit_one(struct cli *c, struct VM_row *vm)
{
	struct VM_set_memory_limits a = { .self = vm->row.ref };
	if (cli_size(c, "static-min", &a.static_min) < 0 ||
	    cli_size(c, "static-max", &a.static_max) < 0 ||
	    cli_size(c, "dynamic-min", &a.dynamic_min) < 0 ||
	    cli_size(c, "dynamic-max", &a.dynamic_max) < 0)
		return -1;
	return cli_call(c, VM_set_memory_limits, &a);
}

static int vm_memory_limits_set(struct cli *c)
{
	return for_vms(c, limit_one);
}

static int set_memory(struct cli *c, struct VM_row *vm)
{
	struct VM_set_memory a = { .self = vm->row.ref };
	return cli_size(c, "memory", &a.value) < 0 ? -1 : cli_call(c, VM_set_memory, &a);
}

static int vm_memory_set(struct cli *c)
{
	return for_vms(c, set_memory);
}

/* What XenServer's does to its records alone is done to the VM: its process is known, and ended. */
int reset_powerstate(struct cli *c, struct VM_row *vm)
{
	bool force = false;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	if (!force)
		return cli_fail(c, "What the VM has in memory is lost by this: give --force");
	if (vm->power_state == vm_power_state_Halted)
		return 0;
	return cli_call(c, VM_hard_shutdown, (&(struct VM_hard_shutdown){ .vm = vm->row.ref }));
}

static int vm_reset_powerstate(struct cli *c)
{
	return for_vms(c, reset_powerstate);
}

/* ---- looking ---- */

static int vm_disk_list(struct cli *c)
{
	return for_vms(c, list_disks);
}

static int list_vifs(struct cli *c, struct VM_row *vm)
{
	struct columns columns;
	if (select_columns(c, view_find("vif"), "params",
			   "uuid,device,MAC,network-uuid,network-name-label", &columns) < 0)
		return -1;
	DB_EACH (c->t, VIF, vif, "VM", vm->row.ref)
		cli_record(c, &columns, &vif->row);
	return 0;
}

static int vm_vif_list(struct cli *c)
{
	return for_vms(c, list_vifs);
}

static int connect_one(struct cli *c, struct VM_row *vm)
{
	struct console_row *serial = vm_console(c->t, vm, console_protocol_vt100);
	if (!serial)
		return -1;
	const char *path = cli_path(c, "/console", "uuid", serial->uuid);
	return cli_transferred(c, thin_connect(c->thin, path));
}

static int console(struct cli *c)
{
	return for_vms(c, connect_one);
}
