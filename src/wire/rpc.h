// SPDX-License-Identifier: Apache-2.0
/* rpc.h -- the API as clients of XenServer speak it: JSON-RPC 1.0 and 2.0 at /jsonrpc, XML-RPC at / and /RPC2.
 *
 * What a method does is api/rpc.h; here are the envelopes and the encodings. */
#pragma once

#include <jansson.h>

#include <stdbool.h>

#include "base/buffer.h"
#include "base/limits.h"

struct request;
struct task;

/* May the body, which would become at most so many values, be read?  Else the request has been
 * refused.  Who has no session yet has little to say. */
bool rpc_may_read(struct task *, struct request *, const char *body, size_t n, size_t values);

void jsonrpc_serve(struct task *, struct request *);
void xmlrpc_serve(struct task *, struct request *);
/* A browser asks whether a page of another server may call. */
void rpc_options(struct task *, struct request *);

/* A call, on t; NULL: it is none.  And what is answered to it; free(text).  The call is on a task
 * of its own, the reader, which is freed before anything is waited for. */
json_t *jsonrpc_read(struct task *, const char *body, size_t n);
struct buffer jsonrpc_answer(struct task *, struct task *reader, const json_t *call);

/* How many tags the text has, and so at most values; false: one of them is too long.  It looks at
 * no more than that. */
bool xmlrpc_shape(const char *body, size_t n, size_t *ret_tags);
/* A call's method, and its parameters as an array: scalars but truths are strings.  body ends with a NUL.  On t;
 * NULL: it is no call. */
const char *xmlrpc_read(struct task *, const char *body, size_t n, json_t **ret_params);

/* A text as it stands between quotes, or between tags; what XML forbids is left out. */
void json_escape(struct buffer *, const char *);
void xml_escape(struct buffer *, const char *);

#define RPC_CORS "Access-Control-Allow-Origin: *\r\n"
#define RPC_TOO_LARGE "The answer is larger than can be given at once: ask for less."
