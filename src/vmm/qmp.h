// SPDX-License-Identifier: Apache-2.0
/* qmp.h -- one connection to QEMU's monitor: calls with a deadline, and events.
 *
 *     -> {"execute":"stop","id":7}\n
 *     <- {"event":"STOP","timestamp":{...}}\r\n
 *     <- {"return":{},"id":7}\r\n
 *     <- {"error":{"class":"GenericError","desc":"..."},"id":8}\r\n
 *
 * A thread of its own reads.  A guest may have taken over its QEMU, so nothing that is read is
 * believed: a line has a limited size, number of values and of levels, and the first thing that is
 * no QMP ends the connection.  From then on all calls fail, those that wait at once.  What QEMU
 * says of a disk (query-block, query-blockstats) has a level for each of its layers.  While nobody
 * waits for an answer, a line that is longer than any event is passed over.  Who says more than a
 * QEMU does is listened to the more slowly: its own commands wait then, and nobody else's. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/limits.h"

struct task;
struct qmp;

/* Both are called from the reader thread. */
struct qmp_handler {
	/* One event; data may be NULL. */
	void (*event)(void *arg, const char *name, const json_t *data);
	/* The connection has ended; the last call.  May wait for things, but not longer than
	 * until the descriptor closing is readable: then qmp_close() waits for it. */
	void (*ended)(void *arg, int closing);
	void *arg;
	const char *vm; /* whose QEMU it is, for errors; stays until qmp_close() */
};

/* Greets and negotiates on a connected socket, which it takes over, in at most ms.  Events may
 * come before it returns.  NULL: failed, and the handler is left for good.  oob: of its calls some can be out of
 * band, which QEMU's monitor thread executes when its main loop hangs; but then commands that bring descriptors
 * must not overlap. */
struct qmp *qmp_open(struct task *, int fd, int ms, bool oob, struct qmp_handler);
/* Ends the connection and waits until the handler is left for good.  No call may be under way. */
void qmp_close(struct qmp *);
/* As its handler says. */
const char *qmp_vm(const struct qmp *);

struct qmp_call {
	const char *command;
	json_t *arguments;     /* taken over; may be NULL */
	int fd;                /* sent along, stays the caller's; 0: none */
	bool query;            /* changes nothing, so that a cancelled task need not wait for it */
	bool oob;              /* out of band */
	int ms;                /* to wait for the answer; 0: DELAY_QMP */
	json_t *ret;           /* what it returned, on the task */
	const char *ret_class; /* of QEMU's error and its text, on the task; NULL without one */
	const char *ret_desc;
};

/* Sends the command and waits for its answer.  Fails with INTERNAL_ERROR "QMP <command>: <desc>",
 * SR_BACKEND_FAILURE_44 when QEMU met a full storage, VM_HALTED [vm] when it has ended.  No answer in time: it
 * fails, and whether the command was or will be executed is not known. */
int qmp_call(struct task *, struct qmp *, struct qmp_call *);

/* The same for a command of which only success matters. */
int qmp_do(struct task *, struct qmp *, const char *command, json_t *arguments);

/* The line reader below it.  Zero is empty; free(unread.text) ends it. */
struct qmp_lines {
	struct buffer unread;
	size_t seen;  /* no line ends before here */
	bool awaited; /* somebody waits for an answer; else a long line is passed over */
	bool passes;  /* ... and the present one is */
};
/* Hands each whole line to message as JSON object (the reader's, to keep it take a reference). -1:
 * the line is too long, no JSON, too deep, of too many values, no object, or message said -1. */
int qmp_feed(struct qmp_lines *, const char *bytes, size_t n, int (*message)(void *, json_t *),
	     void *arg);
