// SPDX-License-Identifier: Apache-2.0
/* vdi.c -- disks: making and deleting them, and their contents as files of the user. */
#include "cli/cli.h"

#include "api/image.h"
#include "api/record.h"

static command_fn vdi_create, vdi_destroy, vdi_snapshot, vdi_clone, vdi_copy, vdi_resize,
	vdi_export, vdi_import, vdi_update, vdi_introduce, vdi_forget;

const struct command commands_vdi[] = {
	{ "vdi-create", vdi_create, 0, "sr-uuid,name-label,virtual-size",
	  "name-description,type,sharable,sm-config:,other-config:,tags:",
	  "Makes an empty disk; virtual-size is in bytes, or with KiB, MiB, GiB, TiB; with "
	  "sm-config:type=raw in no format, without snapshots and clones; prints its uuid." },
	{ "vdi-destroy", vdi_destroy, 0, "uuid", "", "Deletes a disk." },
	{ "vdi-introduce", vdi_introduce, 0, "uuid,sr-uuid,type,location",
	  "name-label,name-description,sharable,read-only,other-config:,xenstore-data:,sm-config:",
	  "Makes a record, with the uuid given, of a volume that is in an SR and has none; "
	  "location "
	  "is the volume's name there.  `xe sr-scan` makes those of all such volumes." },
	{ "vdi-forget", vdi_forget, 0, "uuid", "",
	  "Drops the record of a disk that shares no layers with others, and leaves its volume; "
	  "the "
	  "next scan of the SR would make another record." },
	{ "vdi-snapshot", vdi_snapshot, 0, "uuid", "",
	  "Freezes what a disk holds now as a disk of its own, also while a guest writes it; "
	  "prints "
	  "the uuid." },
	{ "vdi-clone", vdi_clone, 0, "uuid", "new-name-label,new-name-description",
	  "Makes a disk that is a layer over what another holds now; prints its uuid." },
	{ "vdi-copy", vdi_copy, 0, "uuid", "sr-uuid,base-vdi-uuid,into-vdi-uuid",
	  "Makes a full copy of a disk, in the SR that sr-uuid names or where the disk is; prints "
	  "its uuid.  into-vdi-uuid names one that is written over instead." },
	{ "vdi-resize", vdi_resize, 0, "uuid,disk-size", "online",
	  "Makes a disk larger, also while a guest has it; disk-size is in bytes, or with KiB, "
	  "MiB, "
	  "GiB, TiB." },
	{ "vdi-update", vdi_update, 0, "uuid", "", "Looks how large a disk is now." },
	{ "vdi-export", vdi_export, EXACT, "uuid,filename", "format,progress",
	  "Writes the contents of a disk to a file, as format=raw, qcow2 or vhd; an empty filename "
	  "is "
	  "standard output.  progress=true draws a bar." },
	{ "vdi-import", vdi_import, EXACT, "uuid,filename", "format,progress",
	  "Writes what is in a file, an image of format=raw, qcow2 or vhd, over a disk that is as "
	  "large "
	  "or larger.  An image that is not whole is refused, and so is, unless format=raw is "
	  "said, what "
	  "looks like another format.  progress=true draws a bar." },
	{ 0 },
};

static int vdi_update(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	return vdi ? cli_call(c, VDI_update, (&(struct VDI_update){ .vdi = vdi->row.ref })) : -1;
}

/* tags:a=... tags:b=...: the keys are the tags. */
static int add_tags(struct cli *c, const char *ref)
{
	struct map tags = cli_map(c, "tags");
	for (size_t i = 0; i < tags.n; i++)
		if (record_set_add(c->t, &class_VDI, ref, "tags", tags.v[i].key) < 0)
			return -1;
	return 0;
}

static int vdi_create(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "sr-uuid");
	const char *description = cli_arg(c, "name-description"), *type = cli_arg(c, "type");
	struct VDI_create a = {
		.name_label = cli_arg(c, "name-label"),
		.name_description = description ? description : "",
		.type = type ? type : "user",
		.other_config = cli_map(c, "other-config"),
		.sm_config = cli_map(c, "sm-config"),
	};
	if (!sr || cli_size(c, "virtual-size", &a.virtual_size) < 0 ||
	    cli_bool(c, "sharable", &a.sharable) < 0)
		return -1;
	a.SR = sr->row.ref;
	if (cli_call(c, VDI_create, &a) < 0 || add_tags(c, a.result) < 0)
		return -1;
	return cli_uuid(c, &class_VDI, a.result);
}

static int vdi_destroy(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	if (!vdi)
		return -1;
	return cli_call(c, VDI_destroy, (&(struct VDI_destroy){ .self = vdi->row.ref }));
}

static int vdi_introduce(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "sr-uuid");
	struct VDI_introduce a = {
		.uuid = cli_arg(c, "uuid"),
		.name_label = cli_arg_or(c, "name-label", ""),
		.name_description = cli_arg_or(c, "name-description", ""),
		.type = cli_arg(c, "type"),
		.location = cli_arg(c, "location"),
		.other_config = cli_map(c, "other-config"),
		.xenstore_data = cli_map(c, "xenstore-data"),
		.sm_config = cli_map(c, "sm-config"),
		.managed = true,
		.metadata_of_pool = NULL_REF,
		.snapshot_of = NULL_REF,
	};
	if (!sr || cli_bool(c, "sharable", &a.sharable) < 0 ||
	    cli_bool(c, "read-only", &a.read_only) < 0)
		return -1;
	a.SR = sr->row.ref;
	return cli_call(c, VDI_introduce, &a) < 0 ? -1 : cli_uuid(c, &class_VDI, a.result);
}

static int vdi_forget(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	return vdi ? cli_call(c, VDI_forget, (&(struct VDI_forget){ .vdi = vdi->row.ref })) : -1;
}

/* ---- one from another ---- */

static int vdi_snapshot(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	struct VDI_snapshot a = { .vdi = vdi ? vdi->row.ref : NULL_REF };
	if (!vdi || cli_call(c, VDI_snapshot, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VDI, a.result);
}

/* param: "new-name-label"; nothing is done when it was not given. */
static int set_name(struct cli *c, const char *ref, const char *param, const char *field)
{
	const char *name = cli_arg(c, param);
	return name ? record_set(c->t, &class_VDI, ref, field, name) : 0;
}

static int vdi_clone(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	struct VDI_clone a = { .vdi = vdi ? vdi->row.ref : NULL_REF };
	if (!vdi || cli_call(c, VDI_clone, &a) < 0 ||
	    set_name(c, a.result, "new-name-label", "name_label") < 0 ||
	    set_name(c, a.result, "new-name-description", "name_description") < 0)
		return -1;
	return cli_uuid(c, &class_VDI, a.result);
}

/* The object that an optional parameter names; NULL_REF when it was not given, NULL: failed. */
static const char *optional(struct cli *c, const struct class *class, const char *param)
{
	if (!cli_arg(c, param))
		return NULL_REF;
	struct row *r = cli_object_row(c, class, param);
	return r ? r->ref : NULL;
}

static int vdi_copy(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	if (!vdi)
		return -1;
	struct VDI_copy a = {
		.vdi = vdi->row.ref,
		.sr = optional(c, &class_SR, "sr-uuid"),
		.base_vdi = optional(c, &class_VDI, "base-vdi-uuid"),
		.into_vdi = optional(c, &class_VDI, "into-vdi-uuid"),
	};
	if (!a.sr || !a.base_vdi || !a.into_vdi || cli_call(c, VDI_copy, &a) < 0)
		return -1;
	return cli_uuid(c, &class_VDI, a.result);
}

static int vdi_resize(struct cli *c)
{
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	struct VDI_resize a = { .vdi = vdi ? vdi->row.ref : NULL_REF };
	if (!vdi || cli_size(c, "disk-size", &a.size) < 0)
		return -1;
	return cli_call(c, VDI_resize, &a);
}

/* ---- in and out ---- */

/* The path over which the client's own connection moves the bytes; NULL: failed.  The path names no
 * format when the user named none: then the server looks whether the data may be of another one. */
static const char *transfer_path(struct cli *c, const char *uri)
{
	const char *said = cli_arg(c, "format");
	if (said && !image_format(c->t, said))
		return NULL;
	struct VDI_row *vdi = cli_object(c, VDI, "uuid");
	const char *path = vdi ? cli_path(c, uri, "vdi", vdi->uuid) : NULL;
	return path && said ? str(c->t, "%s&format=%s", path, said) : path;
}

static int transfer(struct cli *c, const char *uri, const char *name,
		    int (*carry)(struct thin *, const char *filename, const char *path))
{
	const char *path = transfer_path(c, uri), *task = path ? cli_task_begin(c, name) : NULL;
	if (!task)
		return -1;
	int result = carry(c->thin, cli_arg(c, "filename"), str(c->t, "%s&task_id=%s", path, task));
	cli_task_end(c, task);
	return cli_transferred(c, result);
}

static int vdi_export(struct cli *c)
{
	return transfer(c, "/export_raw_vdi", "VDI.export_raw", thin_get);
}

static int vdi_import(struct cli *c)
{
	return transfer(c, "/import_raw_vdi", "VDI.import_raw", thin_put);
}
