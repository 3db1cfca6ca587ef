// SPDX-License-Identifier: Apache-2.0
/* fuzz_ws.c -- what a client may send on a WebSocket: in one piece, in pieces, and byte by byte it
 * means the same, and never more comes out than went in. */
#include <stdint.h>

#include "base/relay.h"
#include "base/text.h"
#include "unit/check.h"
#include "wire/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct heard {
	struct ws ws;
	char *bytes;
	size_t n, pongs;
};

static void hear(struct heard *h, const uint8_t *data, size_t size, size_t piece)
{
	char said[RELAY_PIECE];
	bool more = true;
	for (size_t at = 0; at < size && more; at += piece) {
		size_t n = size - at < piece ? size - at : piece, left = n;
		char *bytes = talloc_memdup(h->bytes, data + at, n);
		more = ws_unwrap(&h->ws, bytes, n, &left);
		CHECK(left <= n && more == !h->ws.close);
		memcpy(h->bytes + h->n, bytes, left);
		h->n += left;
		size_t own = ws_own(&h->ws, said, false);
		CHECK(own == 0 || (own <= 2 + WS_CONTROL_MAX && (said[0] & 0x0f) == 10));
		h->pongs += own > 0;
		talloc_free(bytes);
	}
	CHECK(ws_own(&h->ws, said, true) == 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t pieces[] = { size + 1, 1, size ? 1 + data[0] : 1 };
	void *ctx = talloc_new(NULL);
	struct heard h[COUNT(pieces)] = { 0 };
	for (size_t i = 0; i < COUNT(pieces); i++) {
		h[i].bytes = talloc_zero_size(ctx, size + 1);
		hear(&h[i], data, size, pieces[i]);
		CHECK(h[i].n == h[0].n && memcmp(h[i].bytes, h[0].bytes, h[0].n) == 0);
		CHECK(h[i].ws.close == h[0].ws.close && h[i].pongs >= h[0].pongs);
	}
	char *key = talloc_strndup(ctx, (const char *)data, size);
	CHECK(!ws_answer_to(ctx, key) || strlen(key) == 24);
	talloc_free(ctx);
	return 0;
}
