// SPDX-License-Identifier: Apache-2.0
#include "base/base64.h"

#include <gnutls/gnutls.h>
#include <stdint.h>
#include <string.h>
#include <talloc.h>

char *base64_text(const void *ctx, const void *bytes, size_t n)
{
	gnutls_datum_t in = { (unsigned char *)(uintptr_t)bytes, (unsigned)n }, out;
	if (gnutls_base64_encode2(&in, &out) < 0)
		return NULL;
	char *text = talloc_strndup(ctx, (const char *)out.data, out.size);
	gnutls_free(out.data);
	return text;
}

unsigned char *base64_bytes(const void *ctx, const char *text, size_t *ret_n)
{
	gnutls_datum_t in = { (unsigned char *)(uintptr_t)text, (unsigned)strlen(text) }, out;
	if (gnutls_base64_decode2(&in, &out) < 0)
		return NULL;
	unsigned char *bytes = talloc_memdup(ctx, out.data, out.size);
	*ret_n = out.size;
	gnutls_free(out.data);
	return bytes;
}
