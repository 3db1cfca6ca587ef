// SPDX-License-Identifier: Apache-2.0
/* base64.h -- base64 (RFC 4648, section 4), by gnutls. */
#pragma once

#include <stddef.h>

/* On ctx; NULL: no memory. */
char *base64_text(const void *ctx, const void *bytes, size_t n);
/* On ctx; NULL: it is no such text. */
unsigned char *base64_bytes(const void *ctx, const char *text, size_t *ret_n);
