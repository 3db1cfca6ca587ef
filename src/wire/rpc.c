// SPDX-License-Identifier: Apache-2.0
/* rpc.c -- which bodies of calls are read at all: what a text would become is seen before anything
 * is made of it. */
#include "wire/rpc.h"

#include "api/session.h"
#include "base/limits.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"

enum { HEAD = 4096, REF = sizeof "OpaqueRef:00000000-0000-4000-8000-000000000000" - 1, TRIES = 4 };

/* Does the beginning of the body name a session?  Whether it is the call's, is seen when that is
 * read. */
static bool names_session(struct task *t, const char *body, size_t n)
{
	static const char word[] = "OpaqueRef:";
	size_t left = n < HEAD ? n : HEAD;
	for (int i = 0; i < TRIES; i++) {
		const char *at = memmem(body, left, word, sizeof word - 1);
		if (!at || (size_t)(body + left - at) < REF)
			return false;
		if (session_is_known(t, talloc_strndup(t, at, REF)))
			return true;
		left -= (size_t)(at + REF - body);
		body = at + REF;
	}
	return false;
}

static bool is_small(size_t n, size_t values)
{
	return n <= RPC_STRANGER_BODY_LIMIT && values <= RPC_STRANGER_VALUES_LIMIT;
}

bool rpc_may_read(struct task *t, struct request *req, const char *body, size_t n, size_t values)
{
	if (values <= RPC_VALUES_LIMIT &&
	    (req->trusted || is_small(n, values) || names_session(t, body, n)))
		return true;
	http_refuse(t, req, 413,
		    str(t, "A call has %d values at most, and without a session %d, and %d bytes.",
			RPC_VALUES_LIMIT, RPC_STRANGER_VALUES_LIMIT, RPC_STRANGER_BODY_LIMIT));
	return false;
}
