// SPDX-License-Identifier: Apache-2.0
/* vm.h -- what the files about VMs share: checks of fields, names of devices. */
#pragma once

#include "model/model.h"

struct task;

/* MEMORY_CONSTRAINT_VIOLATION_ORDER unless static_min <= dynamic_min <= dynamic_max <= static_max. */
int vm_check_memory(struct task *, const struct VM_row *);
/* 1 <= VCPUs_at_startup <= VCPUs_max. */
int vm_check_vcpus(struct task *, const struct VM_row *);
/* A template that came with the system, here or where it was imported from. */
bool vm_is_shipped(const struct VM_row *);
/* Does the row say that a process runs it?  NULL: no. */
bool vm_has_process(const struct VM_row *);
/* The VM with the platform that its process was started with: what its row says is of the next start.  On t; NULL:
 * failed. */
struct VM_row *vm_as_started(struct task *, const char *ref);
/* In a transaction: the VM's record goes, with its devices, its memory and its UEFI variables; its disks stay.  What it
 * leaves on the host, a process even, is a deed to come; a process that the daemon knows is the caller's to end. */
int vm_delete(struct task *, const struct VM_row *);
/* In a transaction: metrics.install_time is now. */
int vm_set_install_time(struct task *, const struct VM_row *);

/* INVALID_DEVICE, DEVICE_ALREADY_EXISTS: the drive's position (userdevice) in its VM. */
int vbd_check_device(struct task *, const struct VBD_row *);
/* In a transaction or not: nobody else has the drive's disk, or all share it. */
int vbd_check_free(struct task *, const struct VBD_row *);
/* VBD_CDS_MUST_BE_READONLY, VDI_IS_NOT_ISO: what a CD drive is. */
int vbd_check_kind(struct task *, const struct VBD_row *);
/* How the guest names the drive at a position: "vda". */
const char *vbd_device_name(struct task *, const char *userdevice);
/* The id of the drive in the VMM: "disk-0". */
const char *vbd_device_id(struct task *, const char *userdevice);

/* The MAC of interface `device` that XenServer derives from the VM's mac_seed. */
const char *mac_from_seed(struct task *, const char *seed, const char *device);

/* 63 random bits, twice, as XenServer writes them: what tells a guest that it is a copy. */
const char *vm_generation_id(struct task *);

/* Takes the VM's process and folder away and halts it; the caller has begun an operation. */
int vm_force_halt(struct task *, const char *ref);
/* In a transaction, stores the row: the VM, which must be in that state still, gets a process, and
 * for it a number that no other has; the journal ends the process.  Not while somebody shuts the
 * VM down by force (OTHER_OPERATION_IN_PROGRESS).  then: the VM as the process will be started. */
int vm_take_number(struct task *, struct VM_row *, enum vm_power_state from,
		   const struct VM_row *then);
/* In a transaction: does the VM still have this number, so that nobody has recorded the end of its
 * process since?  VM_HALTED. */
int vm_check_number(struct task *, const struct VM_row *, int64_t number);
/* In a transaction that stores the row: the VM's process is there, and runs or stands still. */
int vm_mark_up(struct task *, struct VM_row *, int64_t number, bool paused);
/* Would the VM come back from the memory that the row has, a suspended VM's or a checkpoint's?
 * All that it needs is looked at but the image's pages, and the error says what is missing.
 * Nothing is changed; the caller holds the layers of the disks. */
int vm_check_resume(struct task *, const struct VM_row *);
