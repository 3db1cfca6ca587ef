// SPDX-License-Identifier: Apache-2.0
/* host.c -- what there is to say of the host beyond its record. */
#include "cli/cli.h"

static command_fn host_cpu_info, call_plugin;

const struct command commands_host[] = {
	{ "host-cpu-info", host_cpu_info, 0, "", "uuid", "Tells about the host's processors." },
	{ "host-call-plugin", call_plugin, 0, "host-uuid,plugin,fn",
	  "args:", "Fails: this host has no plugins." },
	{ 0 },
};

static int host_cpu_info(struct cli *c)
{
	const struct host_row *host =
		cli_arg(c, "uuid") ? cli_object(c, host, "uuid") : select_host(c, NULL);
	if (!host)
		return -1;
	cli_value(c, record_layout(c->t, &host->cpu_info));
	return 0;
}

static int call_plugin(struct cli *c)
{
	struct host_row *host = cli_object(c, host, "host-uuid");
	struct host_call_plugin a = { .plugin = cli_arg(c, "plugin"), .fn = cli_arg(c, "fn") };
	if (!host)
		return -1;
	a.host = host->row.ref;
	return cli_call(c, host_call_plugin, &a);
}
