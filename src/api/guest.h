// SPDX-License-Identifier: Apache-2.0
/* guest.h -- a guest as guests.c, keeper.c and guest_rows.c share it; for others there is guests.h.
 *
 *     STARTING     ADOPTING --> UNHEARD
 *         \            |          /
 *          '---------> UP <------'
 *                      |
 *                    over          its keeper waits for those who hold it, and lets go of it
 *
 * Each guest has a thread of its own, its keeper, from the moment it is on the list until it is off it: whatever a guest,
 * its storage or those who use it make wait, makes nobody else wait. */
#pragma once

#include <pthread.h>

#include "model/model.h"
#include "vmm/vmm.h"

struct task;

enum guest_state {
	GUEST_STARTING, /* a call makes its process */
	GUEST_ADOPTING, /* the process of an earlier daemon is being asked for the first time */
	GUEST_UNHEARD,  /* it has not answered, and is asked again now and then */
	GUEST_UP,
};

/* An event that a guest has told of, and nobody has looked at yet. */
struct happening {
	struct happening *next;
	enum vmm_event event;
	char detail[64];
};

struct guest {
	struct guest *next;
	const char *ref; /* of the VM */
	enum guest_state state;
	struct vmm *vmm;  /* NULL: not known yet */
	int64_t since_ms; /* it runs, as far as this daemon knows */
	int users;
	bool unwanted; /* it is to end before it is there */
	bool claimed;  /* somebody is ending it */
	bool ended;    /* it has told of its end, and its keeper sees to the rest */
	bool over;     /* nobody gets it any more */

	pthread_t keeper;
	pthread_cond_t news; /* for the keeper */
	struct task *task;   /* what the keeper is at; NULL: nothing */
	struct happening *first;
	unsigned happenings;
	bool deaf;        /* some were dropped, since there were too many */
	int64_t words_ms; /* the keeper's own: until when what it may tell people is used up */
};

struct guests {
	pthread_mutex_t lock;   /* nothing else is locked under it */
	pthread_cond_t changed; /* the list, or a guest of it */
	bool closing;
	int keepers;
	struct guest *first;
};
extern struct guests guests;

/* ---- the keeper ---- */

/* Lock held: something has changed about the guest. */
void guest_changed(struct guest *);
/* Lock held: begins its keeper; errno. */
int keeper_begin(struct guest *);
/* A vmm_listener's; arg is the guest. */
void keeper_hears(void *arg, enum vmm_event, const char *detail);
/* People are told only so often, whatever a guest has to say: messages and the log are for all. */
bool keeper_is_one_too_many(struct guest *, enum vmm_event);

/* ---- the rows ---- */

/* The row of a VM that has a process says this state. */
int guest_write_state(struct task *, const char *vm_ref, enum vm_power_state);
enum vm_power_state guest_state_of(enum vmm_status);
