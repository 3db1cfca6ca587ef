// SPDX-License-Identifier: Apache-2.0
/* disks.h -- image files handed to QEMU, and the instant in which disks switch.
 *
 * QEMU holds one descriptor per layer: read-only for frozen ones, so that a guest that takes over
 * its QEMU later cannot change a snapshot.  A file comes in a set (args.h), is opened from it, and
 * leaves the set at once: a lock lives as long as any descriptor of its opening does, and one
 * forgotten in a set would keep other VMs from using the layer below theirs.
 *
 *     set of the top   { read-only descriptor, opaque "<node name>" }
 *     all other sets   { }                            but for the time of a merge
 *
 * The number of a node's set is a hash of its name.  The one that stays is what QEMU reopens the file with when the top becomes a frozen layer.
 * QEMU keeps the book: after a restart of ours it is asked, nothing is remembered here. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/sync.h"

struct args;
struct list;
struct qmp;
struct task;
struct vmm_config;
struct vmm_disk;
struct vmm_switch;

/* The name of the disk's top layer, NULL with an error when it has none. */
const char *disks_node(struct task *, const struct vmm_disk *);
/* The same of an array of layers that has some. */
const char *disks_top_node(struct task *, const json_t *layers);

/* The one of these with the name; NULL: none. */
const json_t *disks_layer(const json_t *layers, const char *node);

/* Can all layers of all disks be opened? */
int disks_check(struct task *, const struct vmm_config *);
/* Opens all layers of all disks, each once, and adds them to the line. */
int disks_args(struct task *, struct args *, const struct vmm_config *);
/* QEMU has opened what it was given at its start: leaves in the sets what has to stay. */
int disks_settle(struct task *, struct qmp *);

/* As in struct vmm_driver. */
int disks_prepare(struct task *, struct qmp *, size_t n, const struct vmm_switch *);
int disks_switch(struct task *, struct qmp *, size_t n, const struct vmm_switch *,
		 double *ret_pause_ms);
void disks_tidy(struct task *, struct qmp *, size_t n, const struct vmm_switch *);
/* The transaction alone, for a guest that stands still. */
int disks_instant(struct task *, struct qmp *, size_t n, const struct vmm_switch *);
int disks_resize(struct task *, struct qmp *, const json_t *layers, uint64_t size);
int disks_forget(struct task *, struct qmp *, const char *node);
/* Opens the layers in a running QEMU, those that it has open already but for, lowest first; all or none. */
int disks_open(struct task *, struct qmp *, const json_t *layers, bool read_only);
/* Closes layers that no disk uses any more, from the top; it ends at one that another disk uses. */
int disks_close(struct task *, struct qmp *, const json_t *layers);
/* The same of nodes, the topmost first. */
int disks_close_nodes(struct task *, struct qmp *, const struct list *nodes);

/* Puts into the set of a frozen layer what QEMU needs to write it for a while: a descriptor to read it with
 * afterwards, and one to write it with, each with its note.  After a failure, too, disks_take_back()
 * is due: takes out of all sets the descriptors that have one of the notes.  To be done as soon as they are
 * used, for with them the locks stay.  lent: 1 when there are some with the note. */
int disks_lend(struct task *, struct qmp *, const json_t *layer, const char *writing,
	       const char *reading);
int disks_lent(struct task *, struct qmp *, const char *note);
int disks_take_back(struct task *, struct qmp *, const struct list *notes);
int disks_take_back_one(struct task *, struct qmp *, const char *note);
/* The side of a frozen layer is a way into it for a job that fills it from below: a filter of its own, so that what
 * the VM's disks read goes past the job.  Through the layer itself their reads would copy, too, and fail when that
 * cannot be written.
 *
 *     job -> side ->  layer  <- ... <- top <- the guest
 *
 * While it is open the layer, which must be lent, can be written; closing it freezes the layer again, on `below` (""
 * nothing), and puts out what is still in QEMU's memory.  Behind the job it is forgotten.
 *
 * Who does not know whether it is open settles it, with only what it is to be read with lent yet.  For QEMU (10.0)
 * forgets how a file is open when it is reopened for the access that it has already: whatever is done around that node
 * later wants a descriptor from its set, and fails when there is none any more. */
#define DISKS_SIDE_GROUP "sides" /* every VM has this throttle group, without limits */
const char *disks_side(struct task *, const char *node);
int disks_side_open(struct task *, struct qmp *, const char *node, const char *below);
int disks_side_close(struct task *, struct qmp *, const char *node, const char *below);
int disks_side_settle(struct task *, struct qmp *, const char *node, const char *below);
/* Pushes out what QEMU has written to the layer's file. */
int disks_sync(struct task *, const json_t *layer, enum sync_site);
/* What a block job's filter above the node is to be called, which disks_top() sees through. */
const char *disks_filter(struct task *, const char *node);
int disks_top(struct task *, struct qmp *, const char *disk, const char **ret_node);
