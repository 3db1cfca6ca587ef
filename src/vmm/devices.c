// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices.h"

#include <errno.h>
#include <fcntl.h>

#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/disks.h"
#include "vmm/tap.h"
#include "vmm/tpm.h"
#include "vmm/vmm.h"

enum { NIC_SLOT = 0x05, DISK_SLOT = 0x08, FUNCTIONS = 8 };

/* The same for every VM, in a place of its own. */
static const char *const fixed[] = {
	"{'driver':'VGA','id':'vga','bus':'pcie.0','addr':'01.0'}",
	"{'driver':'qemu-xhci','id':'usb','bus':'pcie.0','addr':'02.0'}",
	"{'driver':'usb-tablet','id':'tablet','bus':'usb.0'}",
	"{'driver':'virtio-serial-pci','id':'ports','bus':'pcie.0','addr':'03.0'}",
	"{'driver':'virtio-rng-pci','id':'rng','bus':'pcie.0','addr':'04.0'}",
	/* A panic is told. */
	"{'driver':'pvpanic','id':'panic'}",
};

/* ---- places ---- */

/* A port of its own for each device that can be plugged.  It asks for no I/O ports, of which there
 * are too few for all; its slot number is what guests name the device by. */
static json_t *root_port(struct task *t, const char *kind, unsigned i, unsigned first_slot,
			 unsigned first_name)
{
	return json_own(t, json_pack("{s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:i}", "driver",
				     "pcie-root-port", "id", str(t, "port-%s-%u", kind, i), "bus",
				     "pcie.0", "addr",
				     str(t, "%02x.%u", first_slot + i / FUNCTIONS, i % FUNCTIONS),
				     "multifunction", true, "chassis", 1, "slot",
				     (int)(first_name + i), "io-reserve", 0));
}

static void add(struct args *a, const char *option, json_t *value)
{
	args_add(a, option, json_text(a, value));
}

static void root_ports(struct task *t, struct args *a)
{
	enum { NIC_NAME = 1, DISK_NAME = 16 };
	for (unsigned i = 0; i < VMM_NICS; i++)
		add(a, "-device", root_port(t, "nic", i, NIC_SLOT, NIC_NAME));
	for (unsigned i = 0; i < VMM_DISKS; i++)
		add(a, "-device", root_port(t, "disk", i, DISK_SLOT, DISK_NAME));
}

/* ---- disks ---- */

static bool on_sata(const struct vmm_disk *d)
{
	return d->cd || d->model == VMM_SATA;
}

int device_check_disk(struct task *t, const struct vmm_disk *d)
{
	if (d->position < (on_sata(d) ? VMM_SATA_DISKS : VMM_DISKS))
		return 0;
	return fail(t, INVALID_DEVICE, str(t, "%u", d->position));
}

/* A full storage pauses the guest until there is room; other errors it is told. */
json_t *device_disk(struct task *t, const struct vmm_disk *d)
{
	const char *driver = d->cd ? "ide-cd" : on_sata(d) ? "ide-hd" : "virtio-blk-pci";
	const char *bus =
		on_sata(d) ? str(t, "ide.%u", d->position) : str(t, "port-disk-%u", d->position);
	json_t *j = json_own(t, json_pack("{s:s, s:s, s:s}", "driver", driver, "id", d->id, "bus",
					  bus));
	if (!d->cd) {
		json_object_set_new(j, "serial", json_string(d->serial));
		json_object_set_new(j, "werror", json_string("enospc"));
		json_object_set_new(j, "rerror", json_string("report"));
	}
	if (d->layers) {
		const char *node = disks_node(t, d);
		if (!node)
			return NULL;
		json_object_set_new(j, "drive", json_string(node));
	}
	if (d->bootindex > 0)
		json_object_set_new(j, "bootindex", json_integer(d->bootindex));
	return j;
}

/* ---- network interfaces ---- */

const char *device_netdev_id(struct task *t, const char *nic)
{
	return str(t, "net-%s", nic);
}

json_t *device_netdev(struct task *t, const struct vmm_nic *n, const char *tap)
{
	json_t *j = json_own(t, json_pack("{s:s, s:s}", "type", tap ? "tap" : "user", "id",
					  device_netdev_id(t, n->id)));
	if (tap)
		json_object_set_new(j, "fd", json_string(tap));
	return j;
}

/* virtio can tell the guest; elsewhere it has to be set there. */
static void tell_mtu(json_t *j, const struct vmm_nic *n)
{
	enum { USUAL = 1500 };
	int mtu = n->model == VMM_VIRTIO && n->tap >= 0 ? tap_mtu(n->tap) : 0;
	if (mtu && mtu != USUAL)
		json_object_set_new(j, "host_mtu", json_integer(mtu));
}

/* Without a boot ROM unless it is booted from: guests come up sooner. */
json_t *device_nic(struct task *t, const struct vmm_nic *n)
{
	json_t *j = json_own(t, json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver",
					  n->model == VMM_E1000E ? "e1000e" : "virtio-net-pci",
					  "id", n->id, "bus", str(t, "port-nic-%u", n->position),
					  "netdev", device_netdev_id(t, n->id), "mac", n->mac));
	if (n->bootindex > 0)
		json_object_set_new(j, "bootindex", json_integer(n->bootindex));
	else
		json_object_set_new(j, "romfile", json_string(""));
	tell_mtu(j, n);
	return j;
}

static int nic(struct task *t, struct args *a, const struct vmm_nic *n)
{
	const char *tap = NULL;
	if (n->tap >= 0) {
		int fd = fcntl(n->tap, F_DUPFD_CLOEXEC, 3);
		if (fd < 0)
			return task_fail_errno(t, errno, "tap device");
		args_fd(a, fd);
		tap = str(t, "%d", fd);
	}
	add(a, "-netdev", device_netdev(t, n, tap));
	add(a, "-device", device_nic(t, n));
	return 0;
}

/* ---- all of them ---- */

/* Written with ' for ".  All devices are given as JSON: QEMU makes those of the other form first,
 * whatever their order. */
static void add_text(struct task *t, struct args *a, const char *device)
{
	args_add(a, "-device", text_swap(t, device, '\'', '"'));
}

static int agent(struct task *t, struct args *a, const char *dir)
{
	if (args_listener(t, a, dir, "agent", "") < 0)
		return -1;
	add_text(t, a,
		 "{'driver':'virtserialport','id':'agent','bus':'ports.0','nr':1,'chardev':'agent',"
		 "'name':'org.qemu.guest_agent.0'}");
	return 0;
}

static int tpm(struct task *t, struct args *a, const struct vmm_config *c)
{
	int fd;
	if (!c->tpm)
		return 0;
	if (tpm_start(t, c, &fd) < 0)
		return -1;
	args_fd(a, fd);
	args_add(a, "-chardev", str(t, "socket,id=tpm,fd=%d", fd));
	args_add(a, "-tpmdev", "emulator,id=tpm,chardev=tpm");
	add_text(t, a, "{'driver':'tpm-crb','id':'tpm0','tpmdev':'tpm'}");
	return 0;
}

int devices_args(struct task *t, struct args *a, const struct vmm_config *c)
{
	for (size_t i = 0; i < COUNT(fixed); i++)
		add_text(t, a, fixed[i]);
	root_ports(t, a);
	if (c->generation_id)
		add_text(t, a,
			 str(t, "{'driver':'vmgenid','id':'generation','guid':'%s'}",
			     c->generation_id));
	if (agent(t, a, c->dir) < 0 || tpm(t, a, c) < 0)
		return -1;
	for (size_t i = 0; i < c->ndisks; i++) {
		json_t *j = device_check_disk(t, &c->disks[i]) < 0 ? NULL
								   : device_disk(t, &c->disks[i]);
		if (!j)
			return -1;
		add(a, "-device", j);
	}
	for (size_t i = 0; i < c->nnics; i++)
		if (nic(t, a, &c->nics[i]) < 0)
			return -1;
	return 0;
}
