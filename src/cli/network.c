// SPDX-License-Identifier: Apache-2.0
/* network.c -- networks, and the host's interfaces. */
#include "cli/cli.h"

static command_fn create, destroy, scan_pifs;

const struct command commands_network[] = {
	{ "network-create", create, 0, "name-label", "name-description,MTU,bridge,managed",
	  "Makes a network with a bridge of its own, or of the host's bridge that is named with "
	  "managed=false; prints its uuid." },
	{ "network-destroy", destroy, 0, "uuid", "",
	  "Deletes a network that no interface is in, with the bridge that was made for it." },
	{ "pif-scan", scan_pifs, 0, "host-uuid", "",
	  "Looks at once which interfaces the host has; else that is seen within a minute." },
	{ 0 },
};

static int create(struct cli *c)
{
	struct network_create a = {
		.name_label = cli_arg(c, "name-label"),
		.name_description = cli_arg_or(c, "name-description", ""),
		.bridge = cli_arg_or(c, "bridge", ""),
		.managed = true,
	};
	if (cli_size(c, "MTU", &a.MTU) < 0 || cli_bool(c, "managed", &a.managed) < 0 ||
	    cli_call(c, network_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_network, a.result);
}

static int destroy(struct cli *c)
{
	struct network_row *n = cli_object(c, network, "uuid");
	if (!n)
		return -1;
	return cli_call(c, network_destroy, (&(struct network_destroy){ .self = n->row.ref }));
}

static int scan_pifs(struct cli *c)
{
	struct host_row *host = cli_object(c, host, "host-uuid");
	return host ? cli_call(c, PIF_scan, (&(struct PIF_scan){ .host = host->row.ref })) : -1;
}
