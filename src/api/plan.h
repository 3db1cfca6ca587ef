// SPDX-License-Identifier: Apache-2.0
/* plan.h -- the disks of an operation: which there are, the volumes made for them, and the
 * switch of a running VM onto them. */
#pragma once

#include "api/storage.h"
#include "model/model.h"

struct task;
struct vmm;

struct plan_disk {
	const char *ref;           /* of the VDI */
	const struct VDI_row *vdi; /* as it was when the plan was made */
	const struct sr *sr;
	const char *id; /* of the drive in the VMM */
	bool written;   /* by the running guest: takes part in the switch */
	bool left;      /* the VM leaves the volume behind, and needs no overlay to go on with */
	const char *overlay; /* id of the volume that the VM goes on with, or NULL */
	const char *copy;    /* id of the volume for another VM, or NULL */
	const char *new_vdi; /* ref of the record made from it */
};

struct plan {
	const char *vm;  /* ref */
	void *hold;      /* of vmm, and of the disks' layers against merges; freed with the plan */
	struct vmm *vmm; /* NULL: no process */
	size_t n;
	struct plan_disk *v;
	size_t nswitches; /* prepared by plan_prepare() */
	struct vmm_switch *switches;
	double pause_ms;
	uint64_t copy_bytes; /* that the new layers will cause to be copied, later */
};

/* The disks of the VM's drives and its UEFI store, each once, those of the refs in ignore left out; they are marked as busy
 * with op until operation_end(), all at once, and waited for as a VM is (operation_wait()).  VDI_IN_USE when another
 * VM's process has one, VDI_IS_SHARABLE, OTHER_OPERATION_IN_PROGRESS; VM_BAD_POWER_STATE when the process that the row
 * speaks of has ended.
 *
 * Whatever makes a plan for a running VM asks its VMM which volume each disk writes.  INTERNAL_ERROR when that is
 * another one than the record names: a layer would come over the wrong volume. */
struct plan *plan_disks(struct task *, const struct VM_row *vm, const struct list *ignore,
			enum vdi_operations op);
/* One disk by itself.  vm: the VM that writes it, marked so that its process stays; NULL: none does.  Should
 * another have begun to since it was asked: VDI_IN_USE. */
struct plan *plan_one(struct task *, const struct VM_row *vm, const char *vdi,
		      enum vdi_operations op);
/* The same without a mark: the caller has seen to it that nobody else switches the disk (drive: its id in
 * the VMM). */
struct plan *plan_unmarked(struct task *, const struct VM_row *vm, const struct VDI_row *,
			   const char *drive);
/* In the transaction that records: the disks still have the volumes that the plan was made for. */
int plan_check(struct task *, const struct plan *);

/* Makes the overlays, or the copies, on top of the disks' present volumes; undone by the journal.  Overlays fail
 * with SR_BACKEND_FAILURE_44 where a chain gets too long and there is no room to shorten it. */
int plan_overlays(struct task *, struct plan *);
int plan_copies(struct task *, struct plan *);

/* Overlays for all disks, but for those that are frozen already: of these, copies. */
int plan_volumes(struct task *, struct plan *);

/* A running VM's disks write the volumes that the records name.  INTERNAL_ERROR: one does not. */
int plan_ask(struct task *, const struct VM_row *);

/* What QEMU has written to the disks is synced from this process. */
int plan_sync(struct task *, const struct plan *);
/* All that can be done before the instant: a running VM has the overlays open, and what is to be flushed is. */
int plan_prepare(struct task *, struct plan *);
/* The instant: a running VM's disks go over to their overlays, all or none. */
int plan_switch(struct task *, struct plan *);

/* The same with the VM's memory, which goes on its way; the rest is what vmm.h says of save(). */
struct vmm_save;
int plan_save(struct task *, struct plan *, struct vmm_save *);

/* Behind either, when nothing waits any more: lets the old tops go. */
void plan_tidy(struct task *, const struct plan *);

/* In a transaction: each disk that has an overlay gets it as its volume. */
int plan_record_overlays(struct task *, const struct plan *);

const struct plan_disk *plan_find(const struct plan *, const char *vdi);
void plan_refresh(struct task *, const struct plan *);
