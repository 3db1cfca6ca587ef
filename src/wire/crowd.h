// SPDX-License-Identifier: Apache-2.0
/* crowd.h -- who is connected, and who has the next turn: connections, the sources that they come
 * from (base/peer.h), and how much each of them may take of what all have in common.
 * base/limits.def has the numbers.
 *
 *     connection --> source --> crowd        one crowd at the local socket, one of the network
 *
 * A request is *at work* until its thread waits for something (task_rest()); from then on it is one
 * of those that *wait*, of which there may be many.  While it waits for its client, it is a
 * *stranger's* until it is known who asks (task_vouch()).
 *
 * All of it is guarded by one lock, which each of these functions takes for a moment.  What a
 * connection has of a request belongs to whoever it is with: the accepting thread (PARKED), nobody
 * (READY), or the request's thread (SERVED). */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/task.h"
#include "wire/http.h"

struct shares {
	int connections, connections_of_source;
	int working, working_of_source;
	int waiting, waiting_of_source, waiting_share;
	int strangers, strangers_of_source;
	size_t bodies, bodies_of_source, answers_of_source;
	bool remote; /* requests that wait, and strangers, are counted */
};

struct crowd {
	struct shares most;
	int connections, working, waiting, strangers;
	int threads;
	size_t bodies;
	struct source *sources;
	struct source *first,
		**last; /* those that have requests which are ready, in the order of their turns */
};

/* Connections in the order of their coming. */
struct line {
	struct connection *first, **last;
};

struct source {
	struct source *next;
	struct crowd *crowd;
	char *name;
	int connections, working, waiting, strangers;
	size_t bodies, answers;
	struct source *next_turn;
	struct line ready, resuming; /* which have turns alternately */
	bool resumed;                /* the last one was of those */
};

enum state {
	PARKED, /* more of a request is waited for, without a thread */
	READY,  /* it is there, and waits for its turn */
	SERVED,
	RESUMES, /* its thread has waited for something, and now for its turn to go on */
};

struct connection {
	struct task_turn turn; /* of its request */
	struct connection *next, *next_in_line;
	struct source *source;
	enum state state;
	int64_t until; /* PARKED: it is closed then */
	int64_t since; /* it is in this state */
	int fd;
	bool trusted;
	const char *peer;

	void *scope;        /* the next request's memory: what has come of it */
	char *head;         /* its bytes */
	size_t head_n;      /* so many of them */
	struct request req; /* once the head is whole */
	bool has_head;
	int status;   /* it is refused with; 0: not */
	size_t held;  /* of the crowd's bodies */
	bool lingers; /* it has been answered for the last time */

	struct task *task;        /* of the request that is served; NULL: none */
	struct user *user;        /* NULL: a stranger's */
	bool waits;               /* SERVED: it does not work any more */
	bool for_client;          /* ... but waits for its client */
	bool displaced;           /* disconnected, for there were too many strangers */
	pthread_cond_t may_go_on; /* RESUMES: for its thread */
};

/* Counts a new connection in, for a source that may be new too.  False: there are enough of them.
 * Where another one has to go for it, *ret_victim is that: SERVED from now on, for the caller to
 * end; else NULL. */
bool crowd_enter(struct crowd *, struct connection *, const char *source,
		 struct connection **ret_victim);
/* Takes it off the list; it is the caller's to free. */
void crowd_leave(struct connection *);

/* A request that is being taken in needs room for n more bytes.  A connection that has to go for
 * it, as above; NULL: no more, and the room is the request's. */
struct connection *crowd_need_room(struct connection *, size_t n);

void crowd_init(struct crowd *, const struct shares *);
/* It is PARKED for ms from now on, if the caller can see to that; false: it is still the
 * caller's. */
bool crowd_park(struct connection *, int ms, bool (*see)(struct connection *));
/* What its thread has done to one that is parked now is to be seen by whoever has asked this. */
bool crowd_is_parked(const struct connection *);
/* The request has come. */
void crowd_ready(struct connection *);
/* The next one whose turn it is, which is SERVED then, and at work; NULL: there is none now.
 * thread: the caller is one of the crowd's, and goes on with it, or ends; else a thread is to be
 * begun for it. */
struct connection *crowd_next(struct crowd *, bool thread);
/* Its thread could not be begun. */
void crowd_no_thread(struct connection *);
/* The task of the request that is served; and its end. */
void crowd_begin(struct connection *, struct task *);
void crowd_done(struct connection *);

/* One that is PARKED and over its time, or at the end any that is not SERVED; it is, then.  NULL:
 * there is none. */
struct connection *crowd_late(int64_t now);
struct connection *crowd_unserved(void);
/* From now on nobody has a turn; who is served is interrupted and disconnected, and waited for. */
void crowd_close(void);
void crowd_wait_empty(const struct crowd *, size_t n);
void crowd_open(void);

/* Its thread waits, for its client or for something else; false: it did already.  Where too many
 * strangers keep us waiting, one of them is disconnected. */
bool crowd_rest(struct connection *, bool for_client);
/* It would work again: stands in line; then, when crowd_next() has been asked, waits for its
 * turn. */
bool crowd_line_up(struct connection *);
void crowd_await(struct connection *);
int crowd_vouch(struct connection *, struct task *, const char *user);
/* So many bytes more of its answer are not taken yet. */
void crowd_owe(struct connection *, ptrdiff_t n);
