// SPDX-License-Identifier: Apache-2.0
/* vbd.c -- devices of VMs: drives, network interfaces, TPMs. */
#include "cli/cli.h"

static command_fn vbd_create, vbd_destroy, vbd_plug, vbd_unplug, vbd_insert, vbd_eject, vif_create,
	vif_destroy, vif_move, vif_plug, vif_unplug, vtpm_create, vtpm_destroy;

const struct command commands_vbd[] = {
	{ "vbd-create", vbd_create, 0, "vm-uuid,device", "vdi-uuid,bootable,type,mode,unpluggable",
	  "Gives a VM a drive at a position (0, 1, ... or autodetect), with a disk in it, or, with "
	  "type=CD, a disc or nothing; prints its uuid." },
	{ "vbd-destroy", vbd_destroy, 0, "uuid", "", "Takes a drive away; its disk stays." },
	{ "vbd-plug", vbd_plug, 0, "uuid", "",
	  "Attaches a drive to its VM while that runs.  A drive on a SATA bus waits for the next "
	  "start." },
	{ "vbd-unplug", vbd_unplug, 0, "uuid", "force",
	  "Detaches a drive from its running VM; the guest has to let go of it.  With force=true "
	  "also "
	  "a drive that is marked as one that is not unplugged." },
	{ "vbd-insert", vbd_insert, 0, "uuid,vdi-uuid", "",
	  "Puts a disc into an empty CD drive, also while the VM runs." },
	{ "vbd-eject", vbd_eject, 0, "uuid", "",
	  "Takes the disc out of a CD drive, also while the VM runs, if its guest lets it go." },
	{ "vtpm-create", vtpm_create, 0, "vm-uuid", "is-unique",
	  "Gives a VM that is shut down a TPM; with is-unique=true no copy and no snapshot takes "
	  "over what it "
	  "remembers." },
	{ "vtpm-destroy", vtpm_destroy, 0, "uuid", "force",
	  "Takes a TPM away from a VM that is shut down, with all it remembers." },
	{ "vif-create", vif_create, 0, "device,network-uuid,vm-uuid", "mac,mtu",
	  "Gives a VM a network interface; prints its uuid." },
	{ "vif-destroy", vif_destroy, 0, "uuid", "", "Takes a network interface away." },
	{ "vif-move", vif_move, 0, "uuid,network-uuid", "",
	  "Puts an interface into another network; its VM may run." },
	{ "vif-plug", vif_plug, 0, "uuid", "", "Attaches an interface to its VM while that runs." },
	{ "vif-unplug", vif_unplug, 0, "uuid", "force",
	  "Detaches an interface from its running VM; the guest has to let go of it, with "
	  "force=true "
	  "too." },
	{ 0 },
};

static int vbd_create(struct cli *c)
{
	struct VM_row *vm = cli_object(c, VM, "vm-uuid");
	struct VBD_create a = {
		.VDI = NULL_REF,
		.userdevice = cli_arg(c, "device"),
		.type = cli_arg_or(c, "type", "Disk"),
		.unpluggable = true,
	};
	a.mode = cli_arg_or(c, "mode", streq(a.type, "CD") ? "RO" : "RW");
	if (!vm || cli_bool(c, "bootable", &a.bootable) < 0 ||
	    cli_bool(c, "unpluggable", &a.unpluggable) < 0)
		return -1;
	if (cli_arg(c, "vdi-uuid")) {
		struct VDI_row *vdi = cli_object(c, VDI, "vdi-uuid");
		if (!vdi)
			return -1;
		a.VDI = vdi->row.ref;
	}
	a.VM = vm->row.ref;
	if (cli_call(c, VBD_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VBD, a.result);
}

static int vbd_destroy(struct cli *c)
{
	struct VBD_row *vbd = cli_object(c, VBD, "uuid");
	if (!vbd)
		return -1;
	return cli_call(c, VBD_destroy, (&(struct VBD_destroy){ .self = vbd->row.ref }));
}

static int vbd_plug(struct cli *c)
{
	struct VBD_row *vbd = cli_object(c, VBD, "uuid");
	if (!vbd)
		return -1;
	return cli_call(c, VBD_plug, (&(struct VBD_plug){ .self = vbd->row.ref }));
}

static int vbd_unplug(struct cli *c)
{
	bool force = false;
	struct VBD_row *vbd = cli_object(c, VBD, "uuid");
	if (!vbd)
		return -1;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	return force ? cli_call(c, VBD_unplug_force,
				(&(struct VBD_unplug_force){ .self = vbd->row.ref }))
		     : cli_call(c, VBD_unplug, (&(struct VBD_unplug){ .self = vbd->row.ref }));
}

static int vif_move(struct cli *c)
{
	struct VIF_row *vif = cli_object(c, VIF, "uuid");
	struct network_row *network = vif ? cli_object(c, network, "network-uuid") : NULL;
	if (!network)
		return -1;
	struct VIF_move a = { .self = vif->row.ref, .network = network->row.ref };
	return cli_call(c, VIF_move, &a);
}

static int vif_plug(struct cli *c)
{
	struct VIF_row *vif = cli_object(c, VIF, "uuid");
	if (!vif)
		return -1;
	return cli_call(c, VIF_plug, (&(struct VIF_plug){ .self = vif->row.ref }));
}

static int vif_unplug(struct cli *c)
{
	bool force = false;
	struct VIF_row *vif = cli_object(c, VIF, "uuid");
	if (!vif)
		return -1;
	if (cli_bool(c, "force", &force) < 0)
		return -1;
	return force ? cli_call(c, VIF_unplug_force,
				(&(struct VIF_unplug_force){ .self = vif->row.ref }))
		     : cli_call(c, VIF_unplug, (&(struct VIF_unplug){ .self = vif->row.ref }));
}

static int vbd_insert(struct cli *c)
{
	struct VBD_row *vbd = cli_object(c, VBD, "uuid");
	struct VDI_row *vdi = vbd ? cli_object(c, VDI, "vdi-uuid") : NULL;
	if (!vdi)
		return -1;
	struct VBD_insert a = { .vbd = vbd->row.ref, .vdi = vdi->row.ref };
	return cli_call(c, VBD_insert, &a);
}

static int vbd_eject(struct cli *c)
{
	struct VBD_row *vbd = cli_object(c, VBD, "uuid");
	return vbd ? cli_call(c, VBD_eject, (&(struct VBD_eject){ .vbd = vbd->row.ref })) : -1;
}

static int vif_create(struct cli *c)
{
	struct VM_row *vm = cli_object(c, VM, "vm-uuid");
	struct network_row *network = vm ? cli_object(c, network, "network-uuid") : NULL;
	const char *mac = cli_arg_or(c, "mac", "");
	struct VIF_create a = {
		.device = cli_arg(c, "device"),
		.MAC = streq(mac, "random") ? "" : mac,
	};
	if (!network || cli_size(c, "mtu", &a.MTU) < 0)
		return -1;
	a.VM = vm->row.ref;
	a.network = network->row.ref;
	if (cli_call(c, VIF_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VIF, a.result);
}

static int vif_destroy(struct cli *c)
{
	struct VIF_row *vif = cli_object(c, VIF, "uuid");
	if (!vif)
		return -1;
	return cli_call(c, VIF_destroy, (&(struct VIF_destroy){ .self = vif->row.ref }));
}

/* ---- the drives of a VM ---- */

static int list_drives(struct cli *c, struct VM_row *vm, enum vbd_type type, const char *word,
		       const char *vbd_params)
{
	struct columns vbd_columns, vdi_columns;
	if (select_columns(c, view_find("vbd"), "vbd-params", vbd_params, &vbd_columns) < 0 ||
	    select_columns(c, view_find("vdi"), "vdi-params",
			   "uuid,name-label,sr-name-label,virtual-size", &vdi_columns) < 0)
		return -1;

	int n = 0;
	DB_EACH (c->t, VBD, vbd, "VM", vm->row.ref) {
		if (vbd->type != type)
			continue;
		const struct VDI_row *vdi = db_seek(c->t, VDI, vbd->VDI);
		cli_print(c, str(c->t, "%s %d VBD:", word, n));
		cli_record(c, &vbd_columns, &vbd->row);
		if (!vbd->empty)
			cli_print(c, str(c->t, "%s %d VDI:", word, n));
		if (vdi)
			cli_record(c, &vdi_columns, &vdi->row);
		n++;
	}
	return 0;
}

int list_disks(struct cli *c, struct VM_row *vm)
{
	return list_drives(c, vm, vbd_type_Disk, "Disk", "uuid,vm-name-label,userdevice");
}

int list_cds(struct cli *c, struct VM_row *vm)
{
	return list_drives(c, vm, vbd_type_CD, "CD", "uuid,vm-name-label,userdevice,empty");
}

static int vtpm_create(struct cli *c)
{
	struct VM_row *vm = cli_object(c, VM, "vm-uuid");
	struct VTPM_create a = { 0 };
	if (!vm || cli_bool(c, "is-unique", &a.is_unique) < 0)
		return -1;
	a.vM = vm->row.ref;
	if (cli_call(c, VTPM_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VTPM, a.result);
}

static int vtpm_destroy(struct cli *c)
{
	bool force = false;
	struct VTPM_row *vtpm = cli_object(c, VTPM, "uuid");
	if (!vtpm || cli_bool(c, "force", &force) < 0)
		return -1;
	if (!force) {
		cli_print(c, "The TPM forgets all: what the guest has encrypted with it cannot be "
			     "read again.");
		if (!cli_confirmed(c))
			return -1;
	}
	return cli_call(c, VTPM_destroy, (&(struct VTPM_destroy){ .self = vtpm->row.ref }));
}
