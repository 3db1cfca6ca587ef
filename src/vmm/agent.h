// SPDX-License-Identifier: Apache-2.0
/* agent.h -- a conversation with the agent in a guest (qemu-ga), over a connected socket.
 *
 *     -> ff {"execute":"guest-sync-delimited","arguments":{"id":4711}}\n
 *     <- {"error":{"class":"GenericError","desc":"JSON parse error"}}\n      that was the ff
 *     <- ff {"return": 4711}\n
 *     -> {"execute":"guest-info"}\n
 *     <- {"return": {"version": "7.2.0", ...}}\n
 *
 * Replies bear no number, and one that nobody waited for any more is given to whoever connects next.
 * So each conversation begins with a sync, and so does the first call after one that was given up:
 * what comes before the mark (ff) with our own number is passed over.
 *
 * Nothing that is read is believed: anybody may answer in the guest, or nobody.  A call reads a
 * limited number of bytes, keeps one line of them at most, and ends when its time is over. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/limits.h"

struct task;
struct agent;

/* Takes over the socket, and says nothing yet.  On ctx; the connection ends with it. */
struct agent *agent_new(const void *ctx, int fd);

struct agent_call {
	const char *command;
	json_t *arguments;     /* taken over; may be NULL */
	int ms;                /* how long it may take, a sync included */
	bool mute;             /* is not answered when it succeeds, only when it fails */
	json_t *ret;           /* what it returned, on the task; NULL for a mute one */
	const char *ret_class; /* of the agent's own error, on the task; NULL without one */
};

/* Fails with INTERNAL_ERROR "guest agent: <command>: <why>".  Unless the agent itself said no, whether
 * the command was or will be executed is then not known; the next call is none the wiser or worse for it. */
int agent_call(struct task *, struct agent *, struct agent_call *);

/* The same in two steps, for who waits for something else at the same time: sends the command, and the sync
 * before it; then 1: it was answered, 0: not in that time. */
int agent_say(struct task *, struct agent *, struct agent_call *);
int agent_hear(struct task *, struct agent *, struct agent_call *, int ms);
/* To poll; it stays the agent's. */
int agent_descriptor(const struct agent *);

/* Sends the command behind whatever was sent, at once and without a sync; its answer is not waited for. */
int agent_tell(struct task *, struct agent *, const char *command, int ms);

/* ---- what it is made of: no descriptors, no time ---- */

/* The line that is being read.  Zero is empty; free(line.text) ends it. */
struct agent_lines {
	struct buffer line;
	bool marked; /* a mark stood before it */
};

/* Reads up to the end of the first line that is not empty, or with after_mark, of the first one that
 * begins behind a mark.  A mark begins a line anew.  Returns how many bytes that took, and the line
 * (ended by a NUL, until the next call) or NULL when it is not at its end yet.  -1: it is too long. */
ssize_t agent_feed(struct agent_lines *, const char *bytes, size_t n, bool after_mark,
		   const char **ret_line, size_t *ret_n);

/* Is this the answer to the sync with this number? */
bool agent_is_sync(const char *line, json_int_t id);

/* A line to a reply, an object on t.  Failed: the limits, or no JSON; nothing of the line is quoted. */
json_t *agent_read(struct task *, const char *line, size_t n);
