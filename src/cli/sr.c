// SPDX-License-Identifier: Apache-2.0
/* sr.c -- storage repositories, and how hosts reach them. */
#include "cli/cli.h"

#include <stdio.h>

static command_fn sr_create, sr_introduce, sr_probe_place, sr_scan, sr_check, sr_forget, sr_destroy,
	pbd_create, pbd_plug, pbd_unplug, pbd_destroy;

const struct command commands_sr[] = {
	{ "sr-create", sr_create, 0, "name-label,type",
	  "name-description,host-uuid,device-config:,sm-config:,shared,physical-size,content-type",
	  "Makes a storage repository and plugs it; prints its uuid." },
	{ "sr-introduce", sr_introduce, 0, "name-label,type,uuid",
	  "name-description,shared,content-type",
	  "Makes a storage repository known that exists already; prints its uuid." },
	{ "sr-probe", sr_probe_place, 0, "type", "host-uuid,device-config:,sm-config:",
	  "Prints, as XML, the uuid of the storage repository that is at the place which "
	  "device-config: names, for sr-introduce." },
	{ "sr-scan", sr_scan, 0, "uuid", "",
	  "Brings the records of disks and the storage into agreement." },
	{ "sr-check", sr_check, EXACT, "uuid", "dry-run",
	  "Checks the volumes of a storage repository, and compares them with their records; "
	  "repairs what "
	  "can be repaired safely, except with dry-run=true.  Fails when problems remain." },
	{ "sr-forget", sr_forget, 0, "uuid", "", "Drops the records; the storage stays as it is." },
	{ "sr-destroy", sr_destroy, 0, "uuid", "",
	  "Deletes a storage repository that holds no disks." },
	{ "pbd-create", pbd_create, 0, "host-uuid,sr-uuid", "device-config:",
	  "Tells a host how to reach a storage repository; prints its uuid.  With "
	  "device-config:take-over-from= and the uuid of a host that is lost, the next pbd-plug "
	  "takes "
	  "the storage repository away from that host." },
	{ "pbd-plug", pbd_plug, 0, "uuid", "", "Attaches the storage repository to the host." },
	{ "pbd-unplug", pbd_unplug, 0, "uuid", "", "Detaches the storage repository." },
	{ "pbd-destroy", pbd_destroy, 0, "uuid", "", "Forgets how the host reaches it." },
	{ 0 },
};

static struct host_row *host_of(struct cli *c)
{
	return cli_arg(c, "host-uuid") ? cli_object(c, host, "host-uuid") : select_host(c, NULL);
}

static int sr_create(struct cli *c)
{
	struct host_row *host = host_of(c);
	struct SR_create a = {
		.device_config = cli_map(c, "device-config"),
		.name_label = cli_arg(c, "name-label"),
		.name_description = cli_arg_or(c, "name-description", ""),
		.type = cli_arg(c, "type"),
		.content_type = cli_arg_or(c, "content-type", ""),
	};
	if (!host || cli_bool(c, "shared", &a.shared) < 0)
		return -1;
	a.host = host->row.ref;
	if (cli_call(c, SR_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_SR, a.result);
}

static int sr_introduce(struct cli *c)
{
	struct SR_introduce a = {
		.uuid = cli_arg(c, "uuid"),
		.name_label = cli_arg(c, "name-label"),
		.name_description = cli_arg_or(c, "name-description", ""),
		.type = cli_arg(c, "type"),
		.content_type = cli_arg_or(c, "content-type", ""),
	};
	if (cli_bool(c, "shared", &a.shared) < 0 || cli_call(c, SR_introduce, &a) < 0)
		return -1;
	return cli_uuid(c, &class_SR, a.result);
}

static int sr_probe_place(struct cli *c)
{
	struct host_row *host = host_of(c);
	struct SR_probe a = {
		.type = cli_arg(c, "type"),
		.device_config = cli_map(c, "device-config"),
		.sm_config = cli_map(c, "sm-config"),
	};
	if (!host)
		return -1;
	a.host = host->row.ref;
	if (cli_call(c, SR_probe, &a) < 0)
		return -1;
	cli_print(c, a.result);
	return 0;
}

static int sr_scan(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "uuid");
	return sr ? cli_call(c, SR_scan, (&(struct SR_scan){ .sr = sr->row.ref })) : -1;
}

/* The last line of the report has the figures. */
static int sr_check(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "uuid");
	if (!sr)
		return -1;
	struct SR_check a = { .sr = sr->row.ref };
	size_t volumes = 0, problems = 0, repaired = 0;
	if (cli_bool(c, "dry-run", &a.dry_run) < 0 || cli_call(c, SR_check, &a) < 0)
		return -1;
	cli_print(c, a.result);
	const char *last = strrchr(a.result, '\n');
	sscanf(last ? last + 1 : a.result, "%zu volumes checked, %zu problems, %zu repaired",
	       &volumes, &problems, &repaired);
	return problems > repaired ? cli_fail(c, "%zu problems remain", problems - repaired) : 0;
}

static int sr_forget(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "uuid");
	return sr ? cli_call(c, SR_forget, (&(struct SR_forget){ .sr = sr->row.ref })) : -1;
}

static int sr_destroy(struct cli *c)
{
	struct SR_row *sr = cli_object(c, SR, "uuid");
	return sr ? cli_call(c, SR_destroy, (&(struct SR_destroy){ .sr = sr->row.ref })) : -1;
}

static int pbd_create(struct cli *c)
{
	struct host_row *host = cli_object(c, host, "host-uuid");
	struct SR_row *sr = host ? cli_object(c, SR, "sr-uuid") : NULL;
	if (!sr)
		return -1;
	struct PBD_create a = {
		.host = host->row.ref,
		.SR = sr->row.ref,
		.device_config = cli_map(c, "device-config"),
	};
	if (cli_call(c, PBD_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_PBD, a.result);
}

static int pbd_plug(struct cli *c)
{
	struct PBD_row *pbd = cli_object(c, PBD, "uuid");
	return pbd ? cli_call(c, PBD_plug, (&(struct PBD_plug){ .self = pbd->row.ref })) : -1;
}

static int pbd_unplug(struct cli *c)
{
	struct PBD_row *pbd = cli_object(c, PBD, "uuid");
	return pbd ? cli_call(c, PBD_unplug, (&(struct PBD_unplug){ .self = pbd->row.ref })) : -1;
}

static int pbd_destroy(struct cli *c)
{
	struct PBD_row *pbd = cli_object(c, PBD, "uuid");
	return pbd ? cli_call(c, PBD_destroy, (&(struct PBD_destroy){ .self = pbd->row.ref })) : -1;
}
