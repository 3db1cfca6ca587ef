// SPDX-License-Identifier: Apache-2.0
/* rpc.h -- the API as clients of XenServer speak it: JSON-RPC 1.0 and 2.0 at /jsonrpc, XML-RPC at / and /RPC2.
 *
 * What a method does is api/rpc.h; here are the envelopes and the encodings. */
#pragma once

#include <jansson.h>

#include "base/buffer.h"

struct request;
struct task;

enum {
	RPC_BODY_LIMIT = 300 << 10,
	RPC_ANSWER_LIMIT = 1 << 30,
	RPC_DEPTH_LIMIT = 32, /* of arrays and structs in a call */
};

void jsonrpc_serve(struct task *, struct request *);
void xmlrpc_serve(struct task *, struct request *);
/* A browser asks whether a page of another server may call. */
void rpc_options(struct task *, struct request *);

/* A call, on t; NULL: it is none.  And what is answered to it; free(text). */
json_t *jsonrpc_read(struct task *, const char *body, size_t n);
struct buffer jsonrpc_answer(struct task *, const json_t *call);

/* A call's method, and its parameters as an array: scalars but truths are strings.  body ends with a NUL.  On t;
 * NULL: it is no call. */
const char *xmlrpc_read(struct task *, const char *body, size_t n, json_t **ret_params);

/* A text as it stands between quotes, or between tags; what XML forbids is left out. */
void json_escape(struct buffer *, const char *);
void xml_escape(struct buffer *, const char *);

#define RPC_CORS "Access-Control-Allow-Origin: *\r\n"
