// SPDX-License-Identifier: Apache-2.0
/* known_hosts.h -- servers are known by the certificate that they showed first. */
#pragma once

#include <stddef.h>

struct task;

/* The certificate with this fingerprint (n bytes) is the server's: it is remembered in ~/.xe-hosts when there is
 * none for host:port yet.  Fails when another one is. */
int known_host(struct task *, const char *host, const char *port, const unsigned char *print,
	       size_t n);
