// SPDX-License-Identifier: Apache-2.0
/* peer.h -- who is on the other end: "192.0.2.1:4711", "2001:db8::1:4711" (the port is behind the
 * last colon), or "local uid=0 pid=77". */
#pragma once

#include <stdbool.h>

/* Who counts as one, whatever connections it opens: "192.0.2.1", "2001:db8::/64" (who has one
 * address of IPv6 has 2^64), "local uid=0".  On ctx. */
char *peer_source(const void *ctx, const char *peer);

/* Is it somewhere else?  Who has no peer ("") is the daemon itself. */
bool peer_is_remote(const char *peer);
