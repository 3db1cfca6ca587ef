// SPDX-License-Identifier: Apache-2.0
/* cd.c -- discs by their names, and the CD drives of VMs. */
#include "cli/cli.h"

static command_fn cd_list, vm_cd_list, vm_cd_add, vm_cd_remove, vm_cd_insert, vm_cd_eject;

const struct command commands_cd[] = {
	{ "cd-list", cd_list, STANDARD, "", "params",
	  "Lists the discs that there are: the files of SRs with content-type=iso." },
	{ "vm-cd-list", vm_cd_list, STANDARD | VM_SELECTORS | TEMPLATES_TOO, "",
	  "vbd-params,vdi-params", "Lists the CD drives of a VM and the discs in them." },
	{ "vm-cd-add", vm_cd_add, STANDARD | VM_SELECTORS, "cd-name,device", "",
	  "Gives a VM a CD drive at a position (0 to 5, or autodetect) with the disc in it." },
	{ "vm-cd-remove", vm_cd_remove, STANDARD | VM_SELECTORS, "cd-name", "",
	  "Takes away the CD drive that has the disc in it." },
	{ "vm-cd-insert", vm_cd_insert, STANDARD | VM_SELECTORS, "cd-name", "",
	  "Puts a disc into the VM's empty CD drive, also while it runs." },
	{ "vm-cd-eject", vm_cd_eject, STANDARD | VM_SELECTORS, "", "",
	  "Takes the disc out of the VM's CD drive, also while it runs, if its guest lets it go." },
	{ 0 },
};

/* ---- choosing ---- */

static bool is_disc(struct task *t, const struct VDI_row *vdi)
{
	const struct SR_row *sr = db_seek(t, SR, vdi->SR);
	return sr && streq(sr->content_type, "iso");
}

/* The one disc of the name. */
static struct VDI_row *find_disc(struct cli *c)
{
	const char *name = cli_arg(c, "cd-name");
	struct VDI_row *found = NULL;
	DB_EACH (c->t, VDI, vdi, "name_label", name) {
		if (!is_disc(c->t, vdi))
			continue;
		if (found)
			return cli_fail_ptr(c,
					    "Multiple CDs named %s found. Please use vbd-create or "
					    "vbd-insert and specify uuids",
					    name);
		found = vdi;
	}
	return found ? found : cli_fail_ptr(c, "CD %s not found!", name);
}

/* The VM's one CD drive for which wanted() holds; NULL with ret_n: there are so many. */
static struct VBD_row *find_drive(struct cli *c, const struct VM_row *vm,
				  bool (*wanted)(const struct VBD_row *), int *ret_n)
{
	struct VBD_row *found = NULL;
	*ret_n = 0;
	DB_EACH (c->t, VBD, vbd, "VM", vm->row.ref) {
		if (vbd->type != vbd_type_CD || !wanted(vbd))
			continue;
		found = vbd;
		++*ret_n;
	}
	return *ret_n == 1 ? found : NULL;
}

static bool is_empty(const struct VBD_row *vbd)
{
	return vbd->empty;
}

static bool is_any(const struct VBD_row *vbd)
{
	(void)vbd;
	return true;
}

/* ---- looking ---- */

static int cd_list(struct cli *c)
{
	struct columns columns;
	if (select_columns(c, view_find("vdi"), "params", "uuid,name-label", &columns) < 0)
		return -1;
	DB_EACH (c->t, SR, sr, "content_type", "iso")
		DB_EACH (c->t, VDI, vdi, "SR", sr->row.ref)
			cli_record(c, &columns, &vdi->row);
	return 0;
}

static int vm_cd_list(struct cli *c)
{
	return for_vms(c, list_cds);
}

/* ---- drives ---- */

static int add_one(struct cli *c, struct VM_row *vm)
{
	struct VDI_row *vdi = find_disc(c);
	if (!vdi)
		return -1;
	struct VBD_create a = {
		.VM = vm->row.ref,
		.VDI = vdi->row.ref,
		.userdevice = cli_arg(c, "device"),
		.mode = "RO",
		.type = "CD",
		.unpluggable = true,
	};
	return cli_call(c, VBD_create, &a);
}

static int vm_cd_add(struct cli *c)
{
	return for_vms(c, add_one);
}

/* Also a disc whose name another one has too: this VM has one of them. */
static int remove_one(struct cli *c, struct VM_row *vm)
{
	const char *name = cli_arg(c, "cd-name");
	DB_EACH (c->t, VBD, vbd, "VM", vm->row.ref) {
		const struct VDI_row *vdi = db_seek(c->t, VDI, vbd->VDI);
		if (vbd->type == vbd_type_CD && vdi && streq(vdi->name_label, name))
			return cli_call(c, VBD_destroy,
					(&(struct VBD_destroy){ .self = vbd->row.ref }));
	}
	return cli_fail(c, "CD %s not found!", name);
}

static int vm_cd_remove(struct cli *c)
{
	return for_vms(c, remove_one);
}

/* ---- discs ---- */

static int insert_one(struct cli *c, struct VM_row *vm)
{
	struct VDI_row *vdi = find_disc(c);
	if (!vdi)
		return -1;
	int n;
	struct VBD_row *vbd = find_drive(c, vm, is_empty, &n);
	if (n > 1)
		return cli_fail(c, "Two or more empty CD devices found. Please use vbd-insert");
	if (!vbd)
		return fail(c->t, VM_NO_EMPTY_CD_VBD, vm->row.ref);
	struct VBD_insert a = { .vbd = vbd->row.ref, .vdi = vdi->row.ref };
	return cli_call(c, VBD_insert, &a);
}

static int vm_cd_insert(struct cli *c)
{
	return for_vms(c, insert_one);
}

static int eject_one(struct cli *c, struct VM_row *vm)
{
	int n;
	struct VBD_row *vbd = find_drive(c, vm, is_any, &n);
	if (n > 1)
		return cli_fail(c, "Two or more CDs found. Please use vbd-eject");
	if (!vbd)
		return cli_fail(c, "No CDs found");
	return cli_call(c, VBD_eject, (&(struct VBD_eject){ .vbd = vbd->row.ref }));
}

static int vm_cd_eject(struct cli *c)
{
	return for_vms(c, eject_one);
}
