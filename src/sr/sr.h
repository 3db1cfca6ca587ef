// SPDX-License-Identifier: Apache-2.0
/* sr.h -- the contract of storage: what a driver must do, and what its users may ask.
 *
 * A storage repository is an *attach* (makes a directory or a block device appear) times a
 * *layout* (keeps volumes in it).  Drivers know neither the database nor QEMU's processes.
 *
 * A volume has an id of its own: 24 hex digits, made by volume_id_new(), never a VDI's uuid; in a
 * place that is somebody else's it is the name of the file.  Volumes form a tree; only leaves are ever
 * written:
 *
 *     base <-- snapshot's volume <-- the volume that the guest writes
 *                               <-- a clone's volume
 *
 * All functions block, heed the task's cancel where they can be long, and return 0 or -1 with
 * the error recorded.  What "durable" says: before the return the file was fsynced, and its folder where
 * a name in it is new or gone. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "place/folder.h"
#include "place/mark.h"

struct task;

/* What an SR is attached by. */
struct sr_place {
	const char *type, *uuid;
	const struct map *config;    /* the PBD's device_config */
	const struct holder *holder; /* us */
};

/* One that is attached.  talloc_free() lets go of its place. */
struct sr {
	const char *uuid;
	const char *path; /* of the directory, for people */
	const char
		*reach; /* the same for programs, by our descriptor: the path may lead elsewhere */
	struct folder folder; /* the directory, kept */
	struct mark_lock mark;
	bool direct;  /* disks are opened past the page cache */
	bool reflink; /* files can share blocks: layout->clone() works */
	const struct attach *attach;
	const struct layout *layout;
};

struct sr_merge;
struct sr_check;

struct volume {
	const char *id;
	const char *parent;     /* id of the volume below, "" for none */
	uint64_t virtual_size;  /* bytes the guest sees, a multiple of 512 */
	uint64_t physical_size; /* bytes it takes on the storage */
	bool raw; /* the guest's bytes as they are, in no format: no layer can be over it */
};

struct volumes {
	size_t n;
	struct volume *v;
};

/* How an SR's place comes into being. */
struct attach {
	/* Required.  Makes all but uuid, attach and layout of the SR true.
	 * create: the SR is new: the place must not hold another one, and is marked with sr->uuid;
	 * else the mark must be this SR's (a swapped directory is refused, SR_BACKEND_FAILURE_47).  From
	 * then on nobody else gets the SR (SR_BACKEND_FAILURE_16), until it is freed. */
	int (*attach)(struct task *, struct sr *, const struct sr_place *, bool create);
	/* Required.  0 while the place is where it was when it was attached, and ours; else
	 * SR_BACKEND_FAILURE_47 tells what was found instead.  Quick: all work in the SR asks for it
	 * first. */
	int (*check)(struct task *, const struct sr *);
	/* Optional.  We hold the SR no more, of our own will: the place says so to other hosts, too. */
	int (*leave)(struct task *, const struct sr *);
	/* Optional.  Nobody here has the SR attached: what we left when we were killed while we made,
	 * attached or left it goes. */
	int (*abandon)(struct task *, const struct sr_place *);
	/* Optional.  The uuid of the SR that is in the place, on t, "" when none is; NULL: failed. */
	const char *(*probe)(struct task *, const struct map *config);
	/* Required.  The place is no longer an SR: removes the mark.  sr_destroy() has seen that no
	 * volume is left. */
	int (*destroy)(struct task *, const struct sr *);
};

/* How volumes live in that place. */
struct layout {
	/* Required.  All volumes there are, in no order.  A file that is no sound volume of ours is
	 * logged and left out. */
	int (*scan)(struct task *, const struct sr *, struct volumes *ret);
	/* Required.  One volume; VDI_MISSING [sr uuid, id] when it is not there. */
	int (*stat)(struct task *, const struct sr *, const char *id, struct volume *ret);
	/* Required.  Bytes in all and bytes free for us. */
	int (*space)(struct task *, const struct sr *, uint64_t *ret_total, uint64_t *ret_free);
	/* A new volume of size bytes: empty (parent "") or a layer over parent, which must not be
	 * written from the moment the layer is (SR_BACKEND_FAILURE_38 for a raw one).  Durable.  On failure nothing is left.  An id that
	 * exists already is refused.  NULL, as remove then is: what is in the place is somebody
	 * else's and only read. */
	int (*create)(struct task *, const struct sr *, const char *id, const char *parent,
		      uint64_t size);
	/* Optional.  A new raw volume, empty and sparse; else the same.  What it is, is known by the storage,
	 * and never by what a guest wrote into it. */
	int (*create_raw)(struct task *, const struct sr *, const char *id, uint64_t size);
	/* Optional, both or none: raw volumes whose bytes are ours.  The bytes, to be read, or written; the
	 * descriptor is the caller's.  resize() is not needed: the volume is as large as what was written. */
	int (*open)(struct task *, const struct sr *, const char *id, bool writable, int *ret_fd);
	/* A second volume with the bytes of a raw one that nobody will write any more; they take room once, and
	 * stay until both are removed.  Durable. */
	int (*share)(struct task *, const struct sr *, const char *id, const char *new_id);
	/* Durable.  A volume that is not there is no error. */
	int (*remove)(struct task *, const struct sr *, const char *id);
	/* Required.  How QEMU opens the volume: an array of blockdev-add descriptions, the lowest
	 * layer first, each a format node with "node-name" (volume_node, or volume_node_named) and its
	 * protocol node inline under "file", "read-only" true for all but the top (for the top too unless
	 * writable), never with an implicit backing: the lowest has "backing": null, unless its format has
	 * none at all; the others name the node below in "backing".  A file's name is no link; it is good
	 * in this process and its children, and as long as the SR is attached.  On t. */
	int (*blockdev)(struct task *, const struct sr *, const char *id, bool writable,
			json_t **ret);
	/* Optional.  Pushes what QEMU has written to the volume's file out to the disk, from this
	 * process, so that nothing is left to flush inside a snapshot's pause. */
	int (*sync)(struct task *, const struct sr *, const char *id);
	/* Optional.  Makes a volume larger that is open nowhere and has no layer over it; what is new reads as
	 * zeros, and takes no room.  Durable.  Whatever happens, it has the old size or the new one. */
	int (*resize)(struct task *, const struct sr *, const char *id, uint64_t size);
	/* Optional.  Removes what a create that was killed half-way left behind.  Called by
	 * sr_open(), when nothing else works on the SR. */
	int (*tidy)(struct task *, const struct sr *);

	/* Optional, all three or none: layers that become one.
	 *
	 * What a layer's header calls the volume below it, on ctx; "" for "". */
	const char *(*link)(const void *ctx, const char *id);
	/* The volume's header names another parent, or "" for none, below which the volume shows the same
	 * as before: the caller knows that.  Nothing else is changed.  No process has the volume open.
	 * Durable.  VDI_MISSING. */
	int (*relink)(struct task *, const struct sr *, const char *id, const char *parent);
	/* Merges layers that no process has open for writing, nor those that are written for reading.  Durable.
	 * Fails with SR_BACKEND_FAILURE_44 when there is no room.  Cancelled, failed or killed at any moment:
	 * all volumes but those that go (struct sr_merge) show what they did before, after the volume that is
	 * written was relinked to what was its parent before.  Until then its header may name the new one, and
	 * no other program may open it.  Progress goes to the task. */
	int (*merge)(struct task *, const struct sr *, const struct sr_merge *);
	/* Optional.  A new volume with the content and the parent of one that is frozen or open nowhere,
	 * whose blocks it shares until either is written (FICLONE).  Durable; on failure nothing is left.
	 * Only where sr->reflink. */
	int (*clone)(struct task *, const struct sr *, const char *id, const char *new_id);
	/* Optional, with clone.  Of how many pieces the volume's file consists, which is what a clone's time
	 * grows with (10-40 us each); counts no further than limit. */
	int (*extents)(struct task *, const struct sr *, const char *id, uint64_t limit,
		       uint64_t *ret);

	/* Optional, all three or none: what sr-check needs.
	 *
	 * All ids that names in the place stand for, sound volumes or not, and those that a create or a copy
	 * has not finished and nobody has written for ten minutes. */
	int (*list)(struct task *, const struct sr *, struct list *ret_ids,
		    struct list *ret_unfinished);
	/* Removes what is unfinished by that id; nobody is at work on it.  Durable. */
	int (*discard)(struct task *, const struct sr *, const char *id);
	/* Are the volume's own tables in order, whatever it is a layer over?  Nothing else is opened.  To look
	 * hinders nobody: no lock is taken, and a volume that is or was written meanwhile is SR_BUSY.
	 * repair: what nothing refers to is given back, where no process has the volume open (else it
	 * is SR_BUSY); durable; what a guest sees is not touched.  -1 when it was not to be found out at all. */
	int (*check)(struct task *, const struct sr *, const char *id, bool repair,
		     struct sr_check *ret);
};

enum sr_verdict {
	SR_SOUND,
	SR_LEAKS,  /* space that nothing refers to; harmless */
	SR_FAULTS, /* tables that contradict each other: no proof that data are lost */
	SR_BUSY,
	SR_UNREADABLE, /* the check did not come to its end */
};

struct sr_check {
	enum sr_verdict verdict; /* after the repair */
	uint64_t leaks, faults;  /* clusters, places */
	uint64_t repaired;       /* clusters given back */
	/* Of SR_UNREADABLE: why; of SR_FAULTS: what is known of one of them, or "".  On the task. */
	const char *text;
};

/* Which layers become one:
 *
 *     below <-- a <-- b <-- upper         below <-- lower <-- b <-- upper <-- x
 *
 *     up: what a and b hold goes           down: what upper and b hold goes down into lower, which
 *     up into upper, which names           then shows what upper did.  What stands on upper (x) is
 *     lower (here `below`, "" for          not touched: the caller relinks it to lower.
 *     none) as its parent then.
 *     Only where sr->reflink.
 *
 *     below <-- upper    (a, b)            below <-- lower             (b, upper) <-- x
 *
 * The volumes in brackets are left as they were, and the caller deletes those that nothing needs.
 * Only `upper` is written (up): a and b show what they did.  Only `lower` is written (down): upper goes on
 * showing what it did, but lower and b show no state that ever was, from the first moment on.  So lower must
 * have no other layer over it than this one, and no layer between may have one; that is refused.  lower
 * becomes as large as upper. */
struct sr_merge {
	bool down;
	const char *upper, *lower; /* ids */
};

/* A row per SR type; SR_UNKNOWN_DRIVER for others. */
struct sr_type {
	const char *name;
	const char *doc;
	const char *config;  /* names of the device_config keys it needs, for messages */
	const char *content; /* the content_type of all such SRs; NULL: as the user says */
	const struct attach *attach;
	const struct layout *layout;
};
extern const struct sr_type sr_types[];               /* ended by one without a name */
const struct sr_type *sr_type_find(const char *name); /* NULL: none */

/* The SR at the place, on t.  See struct attach for create. */
struct sr *sr_open(struct task *, const struct sr_place *, bool create);
/* The uuid of the SR of the type that is at the place, on t, "" when there is none; NULL: failed. */
const char *sr_probe(struct task *, const char *type, const struct map *config);
/* As struct attach has them. */
int sr_check_place(struct task *, const struct sr *);
int sr_leave(struct task *, const struct sr *);
int sr_abandon(struct task *, const struct sr_place *);
/* Nothing is looked for, nor changed, in a place that is somebody else's. */
int sr_destroy(struct task *, const struct sr *);

/* The directory, for reading and for work in it, when it still is what it was; the descriptor is the
 * caller's. */
int sr_directory(struct task *, const struct sr *);
/* A file in it without a name, to be written and read. */
int sr_nameless_file(struct task *, const struct sr *);
/* What a program said of files in it, with their path for people, on t; sr NULL: as it is. */
const char *sr_readable(struct task *, const struct sr *, const char *said);

/* What a volume for so many bytes has: rounded up to the sector, as no disk could show what is between
 * two.  SR_BACKEND_FAILURE_79: none can have so many. */
int sr_round_size(struct task *, uint64_t *size);

/* SR_BACKEND_FAILURE_38: no layer can be over a raw volume, so no snapshot nor clone made of it. */
int sr_refuse_layer(struct task *);

/* 24 hex digits. */
char *volume_id_new(const void *ctx);
bool volume_id_ok(const char *id);
/* The name of the volume's node in QEMU: "v" and the id. */
const char *volume_node(const void *ctx, const char *id);
/* The same where ids are names, which QEMU would not take: "v" and a hash of the SR's uuid and the
 * name. */
const char *volume_node_named(const void *ctx, const struct sr *, const char *id);

/* The whole content as raw bytes to the descriptor out, or from in (to the end of the stream, or
 * until `expected` bytes were read; more than the volume holds fails with VDI_TOO_SMALL).  The volume must not be open
 * for writing elsewhere.  Progress goes to the task.  An import is durable. */
int sr_export(struct task *, const struct sr *, const char *id, int out);
int sr_import(struct task *, const struct sr *, const char *id, int in, uint64_t expected);

/* The whole content of one volume to another, in the same SR or another: a new one, empty, without
 * a layer below, and no smaller.  Neither may be open for writing elsewhere.  Zeros take no room.  Durable;
 * progress goes to the task.  After a failure the new volume's content is undefined. */
int sr_copy(struct task *, const struct sr *from, const char *id, const struct sr *to,
	    const char *new_id);
/* The same onto a volume that has content already, or layers below it.  What it has behind the other's
 * end stays. */
int sr_copy_over(struct task *, const struct sr *from, const char *id, const struct sr *to,
		 const char *old_id);
