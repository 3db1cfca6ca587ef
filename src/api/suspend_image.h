// SPDX-License-Identifier: Apache-2.0
/* suspend_image.h -- a VM's memory as a disk of type suspend, in the SR for such: the VM's own, the pool's, or
 * the host's.
 *
 * The volume is raw, its bytes are an image (memory/image.h), whose notes are
 *
 *     {"accel": "tcg", "record": the VM's record as it was started, in the form of metadata.h, "frozen": true,
 *      "cpu": {"model": ..., "props": ..., "more": ...}}
 *
 * ("frozen" where the guest's file systems were, which are to be thawed when it comes back.  "cpu": what vmm_save.cpu
 * says, vmm/cpu.h draws it; images from before there was such a note have none, and their guests get the CPU of a new
 * start.)  Together with the drives and interfaces that are attached, and the machine type that QEMU writes, they make
 * just that machine again.  Nobody writes an image twice, so that a copy is another name for the same bytes. */
#pragma once

#include <jansson.h>

#include "memory/image.h"
#include "model/model.h"

struct plan;
struct receiver;
struct sr;
struct task;
struct vmm;

struct suspend_image {
	const char *sr_ref;
	const struct sr *sr;
	const char *volume;
	int fd;
	uint64_t limit; /* bytes of RAM, and of what else QEMU keeps as such */
	struct receiver *receiver;
	bool frozen;    /* the guest is, or may be */
	json_t *cpu;    /* its, as vmm_save.cpu says */
	uint64_t bytes; /* what the finished image holds */
};

/* An empty volume, undone by the journal.  VM_NO_SUSPEND_SR, SR_SUSPEND_SPACE_INSUFFICIENT. */
int suspend_image_begin(struct task *, const struct VM_row *, struct suspend_image *ret);
/* As vmm_save.open: a socket for what the VMM sends. */
int suspend_image_socket(struct task *, void *image);
/* Waits until all has come and is durable.  p: its frozen disks have the variables of UEFI at the instant, which
 * QEMU's own copy of them may be younger than; NULL: it is not. */
int suspend_image_finish(struct task *, struct suspend_image *, const struct VM_row *,
			 const struct plan *p);
/* Behind a failure of the VMM's: it may be due to the storage.  -1. */
int suspend_image_failed(struct task *, struct suspend_image *);
/* The VM's next save finds nothing of this one; and as suspend_image_close(). */
void suspend_image_give_up(struct task *, struct suspend_image *, struct vmm *);
/* Behind a success or a failure: nothing of it stays open.  It does not wait for the storage. */
void suspend_image_close(struct suspend_image *);
/* The disk's record, to be stored. */
struct VDI_row *suspend_image_record(struct task *, const struct suspend_image *, bool snapshot);

/* Another disk with the same memory, to be stored; its volume is undone by the journal. */
struct VDI_row *suspend_image_share(struct task *, const char *vdi, bool snapshot);
/* In a transaction: the VM has it no more. */
int suspend_image_drop(struct task *, struct VM_row *);

/* What is there to come back to. */
struct saved {
	int fd; /* to be closed by the caller; -1 */
	struct image *image;
	const struct VM_row *vm; /* as it was started */
	bool frozen;
};
/* The note of the guest's CPU, for vmm_config; NULL: there is none. */
const json_t *suspend_image_cpu(const struct image *);

/* The image but for its pages, verified; and that this host and its QEMU can load it, or what they lack.  On t. */
int saved_open(struct task *, const struct VM_row *, struct saved *ret);
