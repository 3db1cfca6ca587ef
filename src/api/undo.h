// SPDX-License-Identifier: Apache-2.0
/* undo.h -- the verbs of the journal and their replay.
 *
 * Each undo_<verb>() writes the row, before the deed.  Replaying a verb looks at the world first,
 * since the deed may or may not have happened, and may be done twice.
 *
 * An overlay that a guest could have written is never dropped: it becomes the top. */
#pragma once

struct task;

/* Takes task->op out of the object's current_operations. */
int undo_operation_end(struct task *, const char *class, const char *ref);

/* Deletes a volume, unless a disk's record names it by now; first closes it in the running VM
 * (ref, or "") that may have it open, unused.  As a deed to come (undo_later) it deletes what no record
 * names any more. */
int undo_vol_delete(struct task *, const char *sr, const char *volume, const char *vm);

/* The disk (id in the VMM) of the VM is about to switch from volume below to overlay.  If
 * the running VM still writes below, nothing has happened.  Else, or when there is no VM left to ask, the overlay
 * becomes the disk's volume, and below a hidden layer under it. */
int undo_overlay_keep(struct task *, const char *vm, const char *vdi, const char *disk,
		      const char *below, const char *overlay);

/* Ends the VM's process. */
int undo_guest_kill(struct task *, const char *vm);

/* A deed to come: the process and the folder of a VM (its uuid) that has no record any more. */
int undo_guest_remove(struct task *, const char *uuid);

/* A deed to come: a VM that is still the template it was made as is deleted with its disks. */
int undo_template_delete(struct task *, const char *vm);

/* The VM that runs is about to stand still for a moment: it goes on, if it still does. */
int undo_vm_resume(struct task *, const char *vm);

/* The VM's guest is about to be frozen by its agent: it is thawed.  One that stands still is when it goes on. */
int undo_guest_thaw(struct task *, const char *vm);

/* The drive or interface (class VBD or VIF) is about to be plugged or unplugged: the VM is asked what
 * it has, and the row made to say the same. */
int undo_device_settle(struct task *, const char *class, const char *ref);

/* The interface's tap is about to go into another bridge: it shall be in that of the network that the row names. */
int undo_network_settle(struct task *, const char *vif);

/* Deletes a row and what hangs on it. */
int undo_record_delete(struct task *, const char *class, const char *ref);

/* Lets go of an SR that was being made. */
int undo_sr_detach(struct task *, const char *sr);
/* The mark of an SR that is being destroyed. */
int undo_sr_mark(struct task *, const char *sr);
/* An SR that is being plugged; or, as a deed to come, unplugged: when its PBD says that it is not
 * plugged, it is let go of, and its mark names nobody. */
int undo_sr_let_go(struct task *, const char *sr);

/* The disc is about to go into the drive, or out of it: asks the VM, and the drive's row says what is. */
int undo_medium_settle(struct task *, const char *vbd, const char *vdi);
/* The disk is about to grow, in the VM (ref) that has it, or "": when that is through with it, the row says
 * what the volume has. */
int undo_size_settle(struct task *, const char *vm, const char *vdi);
/* Layers are about to become one: a VM that does it is asked how it came out, and the rows say the same; else
 * headers say again what the rows do. */
struct step;
int undo_merge_settle(struct task *, const struct step *);
/* The volume's header is about to name another parent that shows the same: it shall name what its row
 * does. */
int undo_link_settle(struct task *, const char *sr, const char *volume);
/* Deletes the file of a blob, unless a row names it. */
int undo_blob_delete(struct task *, const char *file);
/* A deed to come: removes the bridge of a network (its uuid) that is deleted. */
int undo_bridge_remove(struct task *, const char *bridge, const char *network);

/* Between these two calls rows are no undo but deeds to come: they stay when the operation's
 * own rows are dropped with its result, and undo_after() does them. */
const char *undo_later(struct task *);
void undo_now(struct task *, const char *op);
void undo_after(struct task *);

/* Undoes what task->op has in the journal, newest first.  A verb that fails is logged and its row
 * stays, to be tried again. */
void undo_run(struct task *);
/* The same of what came behind a mark, so that the operation can go on from there.  -1: not all of it could
 * be undone. */
const char *undo_mark(struct task *);
int undo_back(struct task *, const char *mark);

/* The same of an operation that nobody works on, on a thread of its own, with its deeds to come: what its VM or its
 * storage makes wait, makes no other operation wait.  One that is being undone so already is left to that. */
void undo_behind(struct task *, const char *op);
/* All of the journal so, at the start after a crash. */
void undo_all(struct task *);
/* Until all that was begun so has been tried.  -1: cancelled. */
int undo_await(struct task *);
