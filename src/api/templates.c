// SPDX-License-Identifier: Apache-2.0
#include "api/templates.h"

#include "api/call.h"
#include "api/provision.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/vmm.h"

/* Stands in user_version.  With a higher one all templates that come with the system are written anew
 * at the next start, a user's changes to them included, as XenServer does it in an upgrade. */
enum { TEMPLATES_VERSION = 2 };

/* What is recommended at most: XenServer's figures. */
#define MEMORY_MOST (INT64_C(1536) << 30)
enum { VCPUS_MOST = 32 };

/* What kinds of guests have in common.  A stock Windows has drivers for AHCI and e1000e, and none for
 * virtio (doc/devices.md). */
struct family {
	const char *description;
	const char *devices; /* platform:devices */
	const char *order;   /* HVM_boot_params:order */
	const char *distro;  /* other_config:install-distro; NULL: none */
};

#define LINUX                                                                                      \
	"Linux, installed from a CD. The installer brings the drivers for the virtio disks and "   \
	"network cards it finds."
static const struct family debian = { LINUX, "virtio", "cdn", "debianlike" };
static const struct family red_hat = { LINUX, "virtio", "cdn", "rhlike" };
static const struct family suse = { LINUX, "virtio", "cdn", "sleslike" };
static const struct family windows = {
	"Windows, installed from a CD. Its disks are on AHCI and its network cards are Intel's "
	"e1000e, "
	"for which the installer has drivers; virtio is faster, once its drivers are installed.",
	"ahci",
	"cd",
	NULL,
};
static const struct family other = {
	"Template which allows VM installation from install media",
	"virtio",
	"dc",
	NULL,
};

static const struct template
{
	const char *label, *name;
	const struct family *family;
	int64_t least, memory; /* MiB */
	int64_t vcpus;
	int64_t disk; /* GiB */
	const char *firmware, *secureboot;
	bool vtpm;
}
templates[] = {
#define TEMPLATE(label, name, family, least, memory, vcpus, disk, firmware, secureboot, vtpm)      \
	{ label, name, &family, least, memory, vcpus, disk, firmware, secureboot, vtpm },
#include "api/templates.def"
};

/* ---- what clients draw their forms from ---- */

static const char *yes_no(bool yes)
{
	return yes ? "yes" : "no";
}

/* Windows 11 does not start without UEFI; the others take both. */
static bool takes_bios(const struct template *m)
{
	return !m->vtpm;
}

static char *recommendations(struct task *t, const struct template *m)
{
	bool ahci = streq(m->family->devices, "ahci");
	return str(t,
		   "<restrictions>"
		   "<restriction field=\"memory-static-min\" min=\"%lld\"/>"
		   "<restriction field=\"memory-static-max\" max=\"%lld\"/>"
		   "<restriction field=\"vcpus-min\" min=\"%lld\"/>"
		   "<restriction field=\"vcpus-max\" max=\"%d\"/>"
		   "<restriction field=\"has-vendor-device\" value=\"false\"/>"
		   "<restriction field=\"supports-bios\" value=\"%s\"/>"
		   "<restriction field=\"supports-uefi\" value=\"yes\"/>"
		   "<restriction field=\"supports-secure-boot\" value=\"%s\"/>"
		   "<restriction property=\"number-of-vbds\" max=\"%d\"/>"
		   "<restriction property=\"number-of-vifs\" max=\"%d\"/>"
		   "</restrictions>",
		   (long long)m->least << 20, (long long)MEMORY_MOST, (long long)m->vcpus,
		   VCPUS_MOST, yes_no(takes_bios(m)), yes_no(!streq(m->secureboot, "false")),
		   ahci ? VMM_SATA_DISKS : VMM_DISKS, VMM_NICS);
}

/* ---- the record ---- */

static void set_other_config(struct VM_row *vm, const struct template *m)
{
	struct provision_disk disk = {
		.device = "0",
		.size = m->disk << 30,
		.sr = "",
		.bootable = true,
		.type = "system",
	};
	struct provision p = { .n = 1, .v = &disk };
	vm->other_config = (struct map){ 0 };
	map_set(vm, &vm->other_config, "default_template", "true");
	map_set(vm, &vm->other_config, "install-methods", "cdrom");
	if (m->family->distro) {
		map_set(vm, &vm->other_config, "linux_template", "true");
		map_set(vm, &vm->other_config, "install-distro", m->family->distro);
	}
	if (m->disk)
		map_set(vm, &vm->other_config, "disks", provision_write(vm, &p));
}

static void set_platform(struct VM_row *vm, const struct template *m)
{
	vm->platform = vm->HVM_boot_params = (struct map){ 0 };
	map_set(vm, &vm->platform, "devices", m->family->devices);
	map_set(vm, &vm->platform, "secureboot", m->secureboot);
	if (m->vtpm)
		map_set(vm, &vm->platform, "vtpm", "true");
	map_set(vm, &vm->HVM_boot_params, "firmware", m->firmware);
	map_set(vm, &vm->HVM_boot_params, "order", m->family->order);
}

static void fill(struct task *t, struct VM_row *vm, const struct template *m)
{
	vm->name_label = m->name;
	vm->name_description = m->family->description;
	vm->reference_label = m->label;
	vm->user_version = TEMPLATES_VERSION;
	vm->is_a_template = vm->is_default_template = true;
	vm->has_vendor_device = false;
	vm->memory_static_min = m->least << 20;
	vm->memory_static_max = vm->memory_dynamic_max = vm->memory_dynamic_min =
		vm->memory_target = m->memory << 20;
	vm->VCPUs_max = vm->VCPUs_at_startup = m->vcpus;
	vm->recommendations = recommendations(t, m);
	set_platform(vm, m);
	set_other_config(vm, m);
}

/* Before there was a table, one template had a name only. */
static struct VM_row *find(struct task *t, const struct template *m)
{
	DB_EACH (t, VM, vm, "is_default_template", "true")
		if (streq(vm->reference_label, m->label) ||
		    (!*vm->reference_label && streq(vm->name_label, m->name)))
			return vm;
	return NULL;
}

static struct VM_row *make(struct task *t)
{
	struct VM_create a = { .name_label = "", .name_description = "" };
	return VM_create(t, &a) < 0 ? NULL : db_get(t, VM, a.result);
}

int templates_open(struct task *t)
{
	size_t written = 0;
	DB_SCOPE(t);
	for (size_t i = 0; i < COUNT(templates); i++) {
		struct VM_row *vm = find(t, &templates[i]);
		if (vm && vm->user_version >= TEMPLATES_VERSION)
			continue;
		if (!vm && !(vm = make(t)))
			return -1;
		fill(t, vm, &templates[i]);
		if (db_put(t, &vm->row) < 0)
			return -1;
		written++;
	}
	if (written)
		log_line(t, "templates written version=%d number=%zu", TEMPLATES_VERSION, written);
	return db_commit(t);
}
