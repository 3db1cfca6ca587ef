// SPDX-License-Identifier: Apache-2.0
/* vmm.h -- the contract of running VMs: what a driver does with one.
 *
 * Drivers know neither the database nor storage: disks arrive as blockdev-add descriptions.  All
 * functions block, have deadlines of their own, and may be called from any thread; those on one VM
 * may overlap.  A VM that ends by itself makes them fail, never hang. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

struct task;
struct vmm; /* one running VM, owned by its driver until release */

/* What a device is to the guest.  SATA and E1000E need no drivers that an installer might lack. */
enum vmm_model { VMM_VIRTIO, VMM_SATA, VMM_E1000E };

/* There are so many places, and a device at a position is at the same address in every start: guests
 * name their devices by it, and what was plugged in comes back where it was. */
enum { VMM_DISKS = 28, VMM_SATA_DISKS = 6, VMM_NICS = 7 };

struct vmm_disk {
	const char *id;       /* of the device: letters, digits and '-' */
	unsigned position;    /* < VMM_DISKS; for SATA and CD drives < VMM_SATA_DISKS */
	const char *serial;   /* given to the guest, which sees the first 20 characters */
	const json_t *layers; /* array, lowest first, as sr's blockdev() gives it; NULL: a CD drive
	                          without a disc */
	enum vmm_model model; /* VMM_VIRTIO or VMM_SATA */
	bool cd;              /* a drive whose disc can be changed, always on SATA */
	bool read_only;
	int bootindex; /* 1 is first; 0: none */
};

struct vmm_nic {
	const char *id;
	unsigned position;    /* < VMM_NICS */
	const char *mac;      /* aa:bb:cc:dd:ee:ff */
	enum vmm_model model; /* VMM_VIRTIO or VMM_E1000E */
	int tap;       /* descriptor of a tap device, stays the caller's; -1: user-mode network */
	int bootindex; /* 0: no boot ROM either */
};

/* UEFI: the program, and the store of its variables, which a switch takes along as the disk VMM_NVRAM. */
#define VMM_NVRAM "nvram"
struct vmm_firmware {
	const json_t *code; /* array of one layer; NULL: BIOS */
	const json_t *vars; /* array, lowest first */
	bool secure;        /* the guest cannot write the store but through the program */
	bool read_only; /* it is a snapshot's store, which is only looked at: no VM can start with it */
};

struct vmm_config {
	const char *uuid;
	const char *name; /* for people; may hold anything */
	const char *dir; /* the VM's own folder, which clear() has made right: sockets, logs, pid */
	uint64_t memory; /* bytes, a multiple of 1 MiB */
	unsigned vcpus;
	const char *accel; /* "tcg" or "kvm", as vmm_accel() answers */
	uid_t uid;         /* what the VM's process runs as; the daemon's own when not root */
	gid_t gid;
	gid_t common; /* a further group, for devices that all VMs may use */
	const char
		*generation_id; /* a uuid that is new for each copy and each revert; NULL: none */
	struct vmm_firmware firmware;
	const char *tpm;     /* what its TPM remembers, in hex, "" for a new one; NULL: none */
	bool ends_on_reboot; /* a reset by the guest ends it */
	bool stands_still_on_crash; /* a panic leaves it paused, to be looked at */
	int kernel, ramdisk; /* open descriptors for a direct boot, -1: BIOS; stay the caller's */
	const char *cmdline; /* kernel arguments of a direct boot */
	size_t ndisks;
	struct vmm_disk *disks;
	size_t nnics;
	struct vmm_nic *nics;
	bool paused; /* do not let the guest run yet */
	/* A VM that was saved comes back: its memory and devices are loaded before it runs. */
	int image; /* -1: it boots; the file, in the form that memory/image.h draws, stays the caller's */
	uint64_t image_at; /* where QEMU's stream begins in it */
	uint64_t
		image_used; /* bytes of RAM that it holds, and that are in use from the beginning */
	const char *machine; /* the machine type that it was; NULL: the newest */
	const json_t *cpu;   /* its CPU, as vmm_save.cpu said; NULL: what the accelerator gives */
};

enum vmm_status {
	VMM_RUNNING,
	VMM_PAUSED,   /* it stands still since it was told to: resume() lets it go on */
	VMM_IO_ERROR, /* ... since the storage of a disk is full */
	VMM_DEAD,     /* ... since it panicked, or its processor made no sense: to be looked at */
};

/* What a VM tells unasked.  detail is "" where nothing else is said. */
enum vmm_event {
	VMM_EXITED,  /* its process is gone; the last event, also after stop().  detail:
	                   "shutdown": the guest powered off; "crash": it panicked; else "" */
	VMM_STOPPED, /* it stands still, and no VMM_NOSPACE said so: paused by us, mostly */
	VMM_RESUMED,
	VMM_NOSPACE,   /* it stands still since the storage of disk `detail` is full; no
	                   VMM_STOPPED follows.  resume() tries the same write again */
	VMM_IOERROR,   /* the storage of disk `detail` failed; the guest was told and runs on */
	VMM_REBOOTED,  /* the guest reset itself; firmware may add a second one */
	VMM_CRASHED,   /* the guest panicked; VMM_EXITED follows, or it stands still */
	VMM_UNPLUGGED, /* device `detail` is gone, now or with a delay after unplug() */
	VMM_AGENT,     /* the guest agent opened ("open") or closed ("") its port */
};

/* Called from the VM's reader thread, one event at a time, never before start() or adopt() has
 * succeeded nor after release() returned.  Must not call the driver back. */
struct vmm_listener {
	void (*event)(void *arg, enum vmm_event, const char *detail);
	void *arg;
	const char *
		vm; /* whom an error names when it has ended: VM_HALTED [vm]; stays until release() */
};

/* One disk's step in a switch: overlay becomes the layer that the guest writes, on top of below. */
struct vmm_switch {
	const char *disk;      /* vmm_disk.id */
	const char *below;     /* node name of the present top */
	const json_t *overlay; /* description of the new top; its "backing" is overridden */
};

/* A VM's memory and devices, and its disks, at one instant. */
struct vmm_save {
	size_t n; /* disks that go over to their overlays, which are prepared */
	const struct vmm_switch *switches;
	bool running;      /* else the guest stands still, and goes on doing so */
	bool keep_stopped; /* it does not go on: stop() follows */
	bool rehearsed;    /* by rehearse() */
	/* A socket for what is sent, the driver's from then on, whose other end is read by a thread of its own.
	 * Called again when a try is repeated: what came out of the one before is worthless. */
	int (*open)(struct task *, void *arg);
	void *arg;
	const char *method; /* returned: how it was done */
	double pause_ms;    /* ... and how long the guest stood still */
	json_t *cpu;        /* ... and what CPU it has, on the task: for vmm_config */
};

/* Layers of a disk that become one while the guest uses it.  sr/sr.h draws the two ways; the names here are
 * those of nodes:
 *
 *     up    what the nodes between lower and upper hold goes up into upper, which then stands on lower,
 *           or on nothing ("").  The disk can be switched meanwhile.  Never into the top: the guest's
 *           flushes would make tables durable before the data that they show.
 *     down  what upper and the nodes between hold goes down into lower, which takes upper's place: below the
 *           layer that stands on upper, or as the top.  The disk cannot be switched meanwhile.
 *
 * "Meanwhile" lasts until merge_close().  top() says upper while a merge from the top runs. */
struct vmm_merge {
	const char *name;     /* of the job: letters, digits and '-'; one at a time */
	const char *disk;     /* vmm_disk.id, VMM_NVRAM for the UEFI store */
	const json_t *layers; /* of the whole disk, lowest first, as it is open now: what blockdev()
	                         gives for its top.  merge_state() and merge_close() do without */
	bool down;
	const char *upper, *lower;
	struct list
		dropped; /* nodes that the disk uses no more afterwards, the topmost first; they are
	                        closed up to one that something uses, so those of a merge that was not
	                        done are all kept */
	unsigned haste;  /* how often it was begun before and had to make way */
	const char *link; /* what a header is to call lower, layout's link(); "" for none */
	/* Called when a merge down into the top is at its end, both layers show the same and the guest's writes
	 * wait: if it returns 0, nothing is taken back any more, whatever happens; else the merge fails.  To be
	 * quick.  NULL in other merges. */
	int (*pivot)(struct task *, void *arg);
	void *arg;
};

enum vmm_merge_state {
	VMM_MERGE_NONE, /* there is none of that name: it did not happen */
	VMM_MERGE_DONE, /* the VM has the new order of layers, and has flushed what was written; to sync
	                   the files is the caller's */
};

struct vmm_driver {
	const char *name;

	/* Before a start: makes the folder, which exists, right for a new process, whatever an
	 * earlier one left there, under whichever user it ran.  A process that is there still is
	 * ended, and what was made for it goes.  Logs stay. */
	int (*clear)(struct task *, const char *uuid, const char *dir);
	/* Before a start, or before anything is given up for one: is there what start() needs of
	 * the host: programs, files that can be opened, memory?  Nothing is changed, taps and
	 * descriptors may be missing (-1), and the VM may have a process now, whose memory will be
	 * free by then.  HOST_NOT_ENOUGH_FREE_MEMORY [needed, available]: in bytes, where a start
	 * surely fails. */
	int (*check)(struct task *, const struct vmm_config *);
	/* Starts the VM; when it returns, the guest runs (or waits, if paused).  On failure no
	 * process is left.  The process outlives the daemon; when that dies in the middle of this,
	 * adopt() finds no VM, or one that is paused. */
	struct vmm *(*start)(struct task *, const struct vmm_config *, struct vmm_listener);
	/* Finds the VM that an earlier daemon started with this folder.  NULL without an error:
	 * there is none any more.  NULL with an error: it is there, but does not answer. */
	struct vmm *(*adopt)(struct task *, const char *uuid, const char *dir, struct vmm_listener);
	int (*status)(struct task *, struct vmm *, enum vmm_status *ret);
	int (*pause)(struct task *, struct vmm *);
	int (*resume)(struct task *, struct vmm *);
	/* The power button.  The guest may or may not heed it. */
	int (*shutdown)(struct task *, struct vmm *);
	/* The reset button. */
	int (*reset)(struct task *, struct vmm *);
	/* Pulls the plug.  On success the process is gone; never fails because it was gone before. */
	int (*stop)(struct task *, struct vmm *);

	/* Opens the overlays in the VM, unused yet, so that nothing slow is left for the instant.
	 * All or none, unless the VM does not answer any more: forget() what was not used. */
	int (*prepare)(struct task *, struct vmm *, size_t n, const struct vmm_switch *);
	/* The instant: all disks switch to their prepared overlays, or none does.  When a failure
	 * is that the VM gave no answer in 30 s, top() tells which.  ret_pause_ms: how long the
	 * guest's disks stood still. */
	int (*switch_disks)(struct task *, struct vmm *, size_t n, const struct vmm_switch *,
			    double *ret_pause_ms);
	/* Some time after a switch or a save that succeeded: lets go of what the old tops need no more.  Nobody waits
	 * for it but who merges their layers. */
	void (*tidy)(struct task *, struct vmm *, size_t n, const struct vmm_switch *);
	/* The node was the top in a switch or a save whose end nobody has seen, and is none any more: lets go of what
	 * a top needs, and what would keep its layer from being merged. */
	int (*settle)(struct task *, struct vmm *, const char *node);
	/* Closes a node that no disk uses; one that is not open is no error. */
	int (*forget)(struct task *, struct vmm *, const char *node);
	/* The disk that the guest writes, whose layers these are as they were opened, gets larger, and the guest
	 * is told.  After a failure the image has the old size or the new one; when a later call is answered
	 * it stays so. */
	int (*resize)(struct task *, struct vmm *, const json_t *layers, uint64_t size);
	/* The node that the disk's guest writes now, on t; "" for a CD drive without a disc, and where the VM has no
	 * such disk.  Quick, however long the disk's chain is. */
	int (*top)(struct task *, struct vmm *, const char *disk, const char **ret_node);

	/* What takes long in save() before the instant, for a guest that is not to hold still so long: save()
	 * with the same struct is to follow, or save_end() with cancel.  Without it save() does it itself. */
	int (*rehearse)(struct task *, struct vmm *, struct vmm_save *);
	/* When it returns 0 the instant has been, the guest does what it did before, and its memory is on its way:
	 * when all of it has been read, save_end() is to be called.  -1: the guest does what it did before, and
	 * top() tells of the disks.  The methods, the first one that the VM and the kernel allow:
	 * background-snapshot, pre-copy, stop-and-copy (vmm/save.h).  No merge is at work in the VM until save_end(),
	 * or, where the guest does not go on, until its process has ended: QEMU takes its disks from whoever
	 * writes them when a migration is completed, and aborts when a job does. */
	int (*save)(struct task *, struct vmm *, struct vmm_save *);
	/* Whether all was sent; cancel: ends what is under way, or has failed, so that the next can begin. */
	int (*save_end)(struct task *, struct vmm *, bool cancel);
	/* The guest came back from an image: tells its networks where it is.  Does not wait. */
	int (*announce)(struct task *, struct vmm *);
	/* Is there a machine of that type to be had? */
	int (*knows_machine)(struct task *, const char *accel, const char *machine, bool *ret);
	/* The names of features of such a CPU (vmm_save.cpu, which nobody vouches for) that are not to be had. */
	int (*missing_features)(struct task *, const char *accel, const json_t *cpu,
				struct list *ret);

	/* Merges, and returns when that is done, or the task is cancelled, or it failed; progress goes to the
	 * task.  It gives way to the guest's own I/O.  0: merge_state() says DONE, until
	 * merge_close().  -1: the layers are as they were, and nothing is left to close, unless the VM does not
	 * answer, what was merged up cannot be written or a pivot has returned 0: merge_state() tells then.  A cancel that comes too late is
	 * none.  A daemon that dies leaves it running. */
	int (*merge)(struct task *, struct vmm *, const struct vmm_merge *);
	/* How the merge came out; one that still runs is cancelled first, or finished where its pivot has
	 * been recorded (`recorded`). */
	int (*merge_state)(struct task *, struct vmm *, const struct vmm_merge *, bool recorded,
			   enum vmm_merge_state *ret);
	/* Behind a merge, done or not: closes what it left open, the nodes that no disk uses any more among
	 * it, and forgets its name.  One that is closed already is no error. */
	int (*merge_close)(struct task *, struct vmm *, const struct vmm_merge *);

	/* A device appears in the running guest, or nothing has happened. */
	int (*plug_disk)(struct task *, struct vmm *, const struct vmm_disk *);
	int (*plug_nic)(struct task *, struct vmm *, const struct vmm_nic *);
	/* Asks the guest to let go of the device, and waits; what it was made of is closed.  One that is
	 * not there is no error.  DEVICE_DETACH_TIMEOUT [type, id]: the guest did not; should it
	 * still do so, VMM_UNPLUGGED says it, and this is to be called again. */
	int (*unplug_disk)(struct task *, struct vmm *, const struct vmm_disk *);
	int (*unplug_nic)(struct task *, struct vmm *, const char *id);
	/* Is there such a device? */
	int (*present)(struct task *, struct vmm *, const char *id, bool *ret);
	/* The disc in a CD drive: insert puts disk->layers into an empty one, eject takes the disc out,
	 * which is to be in disk->layers, of which it needs the node names only.  What is so already is no
	 * error; the tray is closed after it.  VBD_TRAY_LOCKED [id]: the guest holds it fast. */
	int (*insert)(struct task *, struct vmm *, const struct vmm_disk *);
	int (*eject)(struct task *, struct vmm *, const struct vmm_disk *);
	/* A connection to the serial port, both ways; the caller closes it.  There is one at a
	 * time: a second one is silent until the first is closed. */
	int (*serial)(struct task *, struct vmm *, int *ret_fd);
	/* A connection to the screen, which speaks RFB; the caller closes it.  Any number of them. */
	int (*vnc)(struct task *, struct vmm *, int *ret_fd);
	/* What the screen shows, as a PPM into the file. */
	int (*screenshot)(struct task *, struct vmm *, int file);
	/* A connection to the guest agent's port, one at a time; the caller closes it. */
	int (*agent)(struct task *, struct vmm *, int *ret_fd);

	/* Pulls the plug of a VM that adopt() found but got no answer from.  One that is not there
	 * is no error. */
	int (*kill)(struct task *, const char *uuid, const char *dir);

	/* Lets go of a VM, running or not; it goes on.  No call on it may be under way, and no
	 * event comes after the return.  Not to be called from the listener, nor with a lock held
	 * that the listener takes. */
	void (*release)(struct vmm *);

	/* Interfaces can have taps; else all are user mode. */
	bool taps;
};

extern const struct vmm_driver vmm_qemu;
extern const struct vmm_driver vmm_fake; /* no guest: for speed and faults, see fake.c */

/* NULL: there is none of that name. */
const struct vmm_driver *vmm_driver(const char *name);

/* "kvm" or "tcg" for wish "auto", "kvm" or "tcg"; NULL, failed, for others.  With "auto", /dev/kvm is not
 * trusted: without vmx or svm among the CPU's flags it is TCG; else a guest of three instructions
 * is run with a 2 s deadline.  The reason is logged. */
const char *vmm_accel(struct task *, const char *wish);
