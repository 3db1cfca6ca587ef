// SPDX-License-Identifier: Apache-2.0
/* site.h -- requests that a page in a browser makes.  Browsers say which site the page is of, in Origin or
 * Sec-Fetch-Site; programs that are no browsers say neither.
 *
 * Two things go wrong with pages of others.  The browser lends them the password that it keeps for this server: no
 * such request may use it.  Or their site's name is made to lead to this server (DNS rebinding), so that to the
 * browser the page and we are one site: no request of a page is answered that calls us by a name we do not have. */
#pragma once

#include <stdbool.h>

struct task;
struct request;

/* Learns this server's names: the machine's, and those of the certificate (a file of PEM; NULL: none).
 * INVALID_VALUE [path, reason]. */
int site_open(struct task *, const char *pem);
void site_close(void);

/* A page in a browser makes the request, of whichever site. */
bool site_is_of_a_page(const struct request *);
/* The page is of another site than the one that the request calls us. */
bool site_is_another(const struct request *);
/* A page calls us by a name that is no address, not localhost, and none of ours. */
bool site_is_misnamed(const struct request *);
