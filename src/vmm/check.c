// SPDX-License-Identifier: Apache-2.0
/* check.c -- of memory only that is refused which cannot be:
 *
 *     RAM at all       the kernel gives QEMU its RAM in one piece, page by page as the guest touches it; it refuses
 *                      a piece that is larger than all memory and swap together, or where it does not
 *                      overcommit, larger than what it has not promised yet (mm/util.c, __vm_enough_memory())
 *     RAM from an      all of the image's pages are in use before the guest runs.  What others can give up, free
 *     image            swap, and what the VM's present process will leave have to hold them
 *
 * What a guest that boots will use nobody knows: one that is larger than what is free may never
 * touch it. */
#include "vmm/check.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/devices.h"
#include "vmm/disks.h"
#include "vmm/process.h"
#include "vmm/vmm.h"

/* MemAvailable is the kernel's estimate, and a low one. */
enum { DOUBT_SHARE = 32 };

enum overcommit { OVERCOMMIT_GUESS = 0, OVERCOMMIT_ALWAYS = 1, OVERCOMMIT_NEVER = 2 };

/* Bytes, of /proc/meminfo. */
struct figures {
	uint64_t total, available, swap, swap_free, limit, promised;
};

static const struct {
	const char *name;
	size_t offset;
} lines[] = {
	{ "MemTotal:", offsetof(struct figures, total) },
	{ "MemAvailable:", offsetof(struct figures, available) },
	{ "SwapTotal:", offsetof(struct figures, swap) },
	{ "SwapFree:", offsetof(struct figures, swap_free) },
	{ "CommitLimit:", offsetof(struct figures, limit) },
	{ "Committed_AS:", offsetof(struct figures, promised) },
};

static const char *read_proc(struct task *t, const char *path)
{
	enum { MOST = 64 << 10 };
	const char *text = file_read(t, path, MOST);
	task_forgive(t); /* a host that does not tell is not asked */
	return text ? text : "";
}

/* False: the host does not tell. */
static bool read_figures(struct task *t, struct figures *ret)
{
	size_t found = 0;
	struct list text = list_split(t, read_proc(t, "/proc/meminfo"), '\n');
	for (size_t i = 0; i < text.n; i++)
		for (size_t j = 0; j < COUNT(lines); j++)
			if (starts_with(text.v[i], lines[j].name)) {
				uint64_t kib =
					strtoull(text.v[i] + strlen(lines[j].name), NULL, 10);
				*(uint64_t *)(void *)((char *)ret + lines[j].offset) = kib << 10;
				found++;
			}
	return found == COUNT(lines);
}

/* ---- memory ---- */

static int not_enough(struct task *t, uint64_t needed, uint64_t available)
{
	return fail(t, HOST_NOT_ENOUGH_FREE_MEMORY, str(t, "%" PRIu64, needed),
		    str(t, "%" PRIu64, available));
}

static int check_ram(struct task *t, const struct vmm_config *c, const struct figures *f,
		     const struct process_memory *now)
{
	uint64_t most = f->total + f->swap;
	uint64_t left = (f->limit > f->promised ? f->limit - f->promised : 0) + now->promised;
	switch (atoi(read_proc(t, "/proc/sys/vm/overcommit_memory"))) {
	case OVERCOMMIT_GUESS:
		return c->memory > most ? not_enough(t, c->memory, most) : 0;
	case OVERCOMMIT_NEVER:
		return c->memory > left ? not_enough(t, c->memory, left) : 0;
	default:
		return 0;
	}
}

static int check_memory(struct task *t, const struct vmm_config *c)
{
	struct figures f;
	struct process p;
	struct process_memory now = { 0 };
	int there = process_find(t, c->dir, args_mark(t, c->uuid), &p);
	if (there > 0) {
		now = process_memory(t, &p);
		fd_close(&p.pidfd);
	}
	task_forgive(t); /* a process that cannot be found leaves nothing */
	if (!read_figures(t, &f))
		return 0;
	uint64_t available = f.available + f.swap_free + now.resident;
	if (c->image_used > available + f.total / DOUBT_SHARE)
		return not_enough(t, c->image_used, available);
	return check_ram(t, c, &f, &now);
}

/* ---- the rest ---- */

static int check_devices(struct task *t, const struct vmm_config *c)
{
	for (size_t i = 0; i < c->ndisks; i++)
		if (device_check_disk(t, &c->disks[i]) < 0)
			return -1;
	return disks_check(t, c);
}

int check_start(struct task *t, const struct vmm_config *c)
{
	if (!args_program(t, "qemu-system-x86_64") || (c->tpm && !args_program(t, "swtpm")))
		return -1;
	return check_devices(t, c) < 0 ? -1 : check_memory(t, c);
}
