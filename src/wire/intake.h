// SPDX-License-Identifier: Apache-2.0
/* intake.h -- a request as it comes, piece by piece, without a thread: its head, and the body of a
 * route that takes small ones (struct route).  A client may be as slow as it likes, and costs what
 * it has sent. */
#pragma once

#include <stddef.h>

struct connection;

enum intake { INTAKE_MORE, INTAKE_WHOLE, INTAKE_GONE };

/* Takes what has come, and waits for nothing.  WHOLE: c->req is there with c->status 0, or it is to
 * be refused with c->status.  make_room is asked before c keeps more bytes.  find says how large a
 * body the route takes, 0: it reads by itself what it wants. */
enum intake intake(struct connection *c, size_t (*find)(const struct connection *),
		   void (*make_room)(struct connection *, size_t n));

/* How long to wait for the next piece, in ms since the request began. */
int intake_patience(const struct connection *);
/* Says, without waiting, that it did not come. */
void intake_refuse_late(const struct connection *);
