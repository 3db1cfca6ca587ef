// SPDX-License-Identifier: Apache-2.0
/* absent.c -- commands of XenServer's xe that are not here, and why; commands that nobody has, and which was meant. */
#include "cli/cli.h"

enum { NEAR = 2 }; /* characters that may differ */

static const char pool[] = "Stillframe runs on one host: there is no pool of several.";
static const char host[] = "The host is an ordinary Linux system: its own tools do that "
			   "(systemctl, journalctl, dmesg).";
static const char network[] =
	"The host's own network is its operating system's: make a bridge there, and "
	"`xe network-create bridge=NAME managed=false` uses it.";
static const char updates[] = "Stillframe is updated by the host's package manager.";
static const char licences[] = "There are no licences and no editions.";
static const char devices[] = "VMs get no PCI, USB or graphics devices of the host.";
static const char export[] =
	"Whole VMs are neither exported nor imported yet; `xe vdi-export` writes a disk to a file.";
static const char changes[] =
	"Changed blocks are not tracked yet; `xe vdi-export` writes all of a disk.";
static const char figures[] =
	"No figures over time are kept yet; `xe vm-param-list` has the present ones.";
static const char memory[] =
	"A VM has the memory that it was started with; `xe vm-memory-limits-set` sets it for the "
	"next start.";
static const char services[] = "Stillframe has no part of this kind.";
static const char logs[] =
	"The log is the file stillframed.log in the daemon's folder, or the journal's.";

/* NAME, or the beginning of several and a star. */
static const struct {
	const char *pattern, *why;
} absent[] = {
	{ "vm-export", export },
	{ "vm-import", export },
	{ "template-export", export },
	{ "snapshot-export-to-template", export },
	{ "vm-migrate", pool },
	{ "vdi-pool-migrate",
	  "Disks are not moved while a VM runs; `xe vdi-copy` makes a full copy." },
	{ "vdi-enable-cbt", changes },
	{ "vdi-disable-cbt", changes },
	{ "vdi-list-changed-blocks", changes },
	{ "vdi-data-destroy", changes },
	{ "vm-data-source-*", figures },
	{ "host-data-source-*", figures },
	{ "sr-data-source-*", figures },
	{ "vm-memory-*", memory },
	{ "vm-vcpu-hotplug",
	  "The number of VCPUs of a running VM does not change; shut it down first." },
	{ "vm-call-plugin",
	  "There are no plugins; the guest agent does what calls of the API need." },
	{ "vif-configure-*", "Addresses inside a guest are the guest's own." },
	{ "log-*", logs },
	{ "audit-log-get", "The audit trail is the file audit.log in the daemon's folder." },
	{ "host-license-*", licences },
	{ "host-apply-edition", licences },
	{ "host-all-editions", licences },
	{ "host-backup", host },
	{ "host-bugreport-upload", host },
	{ "host-crashdump-*", host },
	{ "host-dmesg", host },
	{ "host-get-system-status*", host },
	{ "host-logs-download", host },
	{ "host-management-*", network },
	{ "host-power-on", host },
	{ "host-reboot", host },
	{ "host-restore", host },
	{ "host-set-hostname*", host },
	{ "host-shutdown*", host },
	{ "host-syslog-reconfigure", host },
	{ "host-*", pool },
	{ "bond-*", network },
	{ "vlan-*", network },
	{ "tunnel-*", network },
	{ "network-sriov-*", network },
	{ "pif-*", network },
	{ "pool-*", pool },
	{ "cluster-*", pool },
	{ "appliance-*", services },
	{ "drtask-*", services },
	{ "vm-recover", services },
	{ "vm-assert-can-be-recovered", services },
	{ "sr-enable-database-replication", services },
	{ "sr-disable-database-replication", services },
	{ "pvs-*", services },
	{ "sdn-controller-*", services },
	{ "vm-group-*", services },
	{ "wlb-*", services },
	{ "vm-retrieve-wlb-recommendations", services },
	{ "gpu-group-*", devices },
	{ "pgpu-*", devices },
	{ "vgpu-*", devices },
	{ "pci-*", devices },
	{ "pusb-*", devices },
	{ "vusb-*", devices },
	{ "usb-group-*", devices },
	{ "patch-*", updates },
	{ "update-*", updates },
	{ "repository-*", updates },
};

static bool matches(const char *pattern, const char *name)
{
	size_t n = strlen(pattern);
	return pattern[n - 1] == '*' ? strncmp(pattern, name, n - 1) == 0 : streq(pattern, name);
}

const char *cli_absent(const char *name)
{
	for (size_t i = 0; i < COUNT(absent); i++)
		if (matches(absent[i].pattern, name))
			return absent[i].why;
	return NULL;
}

struct nearest {
	struct cli *c;
	const char *name;
	unsigned distance;
};

static void look_at(void *arg, const struct view *v, const struct command *k)
{
	struct nearest *n = arg;
	const char *name = v ? str(n->c->t, "%s-%s", v->name, k->name) : k->name;
	unsigned distance = text_distance(n->c->name, name);
	if (distance < n->distance) {
		n->distance = distance;
		n->name = name;
	}
}

const char *cli_nearest(struct cli *c)
{
	struct nearest n = { .c = c, .distance = NEAR + 1 };
	cli_each_command(&n, look_at);
	return n.name;
}
