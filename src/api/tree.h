// SPDX-License-Identifier: Apache-2.0
/* tree.h -- the volumes that stand on each other, who has them open, and what is the next thing to do with
 * them so that no layer is kept that nobody needs.
 *
 *     H1 <-- H2 <-- C <-- T        H1 and H2 are hidden (their disks were deleted) and have one layer
 *                                  over them: they are merged with C, in one step
 *
 * A step is chosen by what it costs, in bytes copied.  Each leaves all volumes showing what they did. */
#pragma once

#include "model/model.h"

struct sr;
struct task;

struct tree_node {
	struct tree_node *next; /* in the tree, parents before their children */
	struct tree_node *parent;
	struct tree_node *child, *sibling; /* the first; the next of the same parent */
	unsigned children;
	const struct VDI_row *vdi; /* vdi->location is the volume's id */
	bool hidden;               /* of no disk any more */
	uint64_t bytes;            /* on the storage, about */
	const char *vm,
		*disk;  /* a VM whose process has it open, and the drive that does; "" none */
	bool shared;    /* more than one process has */
	bool top;       /* it is what that drive's guest writes */
	bool fixed;     /* a drive shows it that does not write it: left alone */
	unsigned depth; /* layers below it */
};

struct tree {
	const char *sr_ref;
	const struct sr *sr;
	struct tree_node *root;
	unsigned chain_max; /* layers that may be below a running VM's top */
};

enum step_kind {
	STEP_NONE,
	STEP_MERGE,  /* layers become one, see sr_merge */
	STEP_FREEZE, /* what a guest writes gets an overlay, so that it can be merged up into */
	STEP_SPLIT, /* a snapshot's volume is cloned, the snapshot gets the clone, and the volume is hidden */
	STEP_DETACH, /* one of several layers over a volume gets a clone of that for itself */
};

struct step {
	enum step_kind kind;
	bool down;
	const char *sr;    /* ref */
	const char *upper; /* volume: of a merge; the one that is split; the one that is detached */
	const char *lower; /* of a merge; "" none */
	const char *above; /* the layer over upper in a merge down; "" none */
	const char *top;   /* of the drive that has them open, "" none */
	const char *vm, *disk; /* who has them open, "" nobody */
	bool into_top;         /* upper is what the guest writes */
	struct list dropped;   /* volumes that leave the chain, the topmost first */
	uint64_t cost;         /* bytes to be copied, about */
	unsigned haste;        /* how often its tree's step had to make way in a row */
};

/* The volume that the volume stands on in the end; "" when it is gone. */
const char *tree_root(struct task *, const char *volume);
/* The whole tree that the volume is in, on t; NULL: there is no such volume any more, or, with an
 * error, its SR is not attached. */
struct tree *tree_read(struct task *, const char *volume);
struct tree_node *tree_find(const struct tree *, const char *volume);

/* The cheapest step there is.  What has to wait is in ret_why, "" when nothing has. */
struct step tree_next(struct task *, const struct tree *, const char **ret_why);
/* Bytes of layers that nobody needs and that are to be merged. */
uint64_t tree_backlog(const struct tree *);

/* The volumes that a step writes, or whose record or order it changes: nobody else may open or switch them
 * meanwhile. */
struct list tree_claims(struct task *, const struct step *);
/* The volumes that are opened with this one: itself and all below it. */
struct list tree_chain(struct task *, const char *volume);

/* What a further layer over the disk's volume would cost, in bytes to be copied later, since its chain
 * gets too long; 0: nothing. */
int tree_price(struct task *, const struct VDI_row *, uint64_t *ret);
