// SPDX-License-Identifier: Apache-2.0
/* vmss.c -- schedules of snapshots. */
#include "cli/cli.h"

#include "api/record.h"

static command_fn create, destroy, snapshot_now;

const struct command commands_vmss[] = {
	{ "vmss-create", create, 0, "name-label,type,frequency",
	  "name-description,enabled,schedule:,retained-snapshots",
	  "Makes a schedule of snapshots (type=snapshot, checkpoint or snapshot_with_quiesce; "
	  "frequency=hourly, daily or weekly; schedule:min=, hour=, days=); prints its uuid.  A VM "
	  "gets it with vm-param-set snapshot-schedule=.  Nothing runs it by itself yet, so it "
	  "takes enabled=false." },
	{ "vmss-destroy", destroy, 0, "uuid", "", "Deletes a schedule that no VM has." },
	{ "vmss-snapshot-now", snapshot_now, 0, "uuid", "",
	  "Takes the snapshots of a schedule at once, and deletes the oldest of its own beyond "
	  "retained-snapshots." },
	{ 0 },
};

/* A word of an enumeration. */
static int word(struct cli *c, const char *param, const char *of, int *ret)
{
	*ret = enum_value(of, cli_arg(c, param));
	return *ret < 0 ? fail(c->t, INVALID_VALUE, param, cli_arg(c, param)) : 0;
}

static int describe(struct cli *c, const char *ref)
{
	const char *text = cli_arg(c, "name-description");
	return text ? record_set(c->t, &class_VMSS, ref, "name_description", text) : 0;
}

static int create(struct cli *c)
{
	int type, frequency;
	struct VMSS_create a = {
		.name_label = cli_arg(c, "name-label"),
		.enabled = true,
		.retained_snapshots = 7,
		.schedule = cli_map(c, "schedule"),
	};
	if (cli_bool(c, "enabled", &a.enabled) < 0 ||
	    cli_size(c, "retained-snapshots", &a.retained_snapshots) < 0 ||
	    word(c, "type", "vmss_type", &type) < 0 ||
	    word(c, "frequency", "vmss_frequency", &frequency) < 0)
		return -1;
	a.type = (enum vmss_type)type;
	a.frequency = (enum vmss_frequency)frequency;
	if (cli_call(c, VMSS_create, &a) < 0 || describe(c, a.result) < 0)
		return -1;
	return cli_uuid(c, &class_VMSS, a.result);
}

static int destroy(struct cli *c)
{
	struct VMSS_row *v = cli_object(c, VMSS, "uuid");
	return v ? cli_call(c, VMSS_destroy, (&(struct VMSS_destroy){ .self = v->row.ref })) : -1;
}

static int snapshot_now(struct cli *c)
{
	struct VMSS_row *v = cli_object(c, VMSS, "uuid");
	if (!v)
		return -1;
	struct VMSS_snapshot_now a = { .vmss = v->row.ref };
	if (cli_call(c, VMSS_snapshot_now, &a) < 0)
		return -1;
	cli_print(c, a.result);
	return strstr(a.result, " Error:") ? cli_fail(c, "Not all snapshots were taken") : 0;
}
