// SPDX-License-Identifier: Apache-2.0
/* fuzz_http.c -- heads of requests, credentials, and what must hold of them when they are taken. */
#include <stdint.h>

#include "base/text.h"
#include "unit/check.h"
#include "wire/auth.h"
#include "wire/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_taken(const struct request *req)
{
	CHECK(req->method && *req->method && req->path && req->path[0] == '/');
	CHECK(!strstr(req->path, "/../") && !ends_with(req->path, "/.."));
	CHECK(text_is_utf8(req->path));
	CHECK(req->body_length >= -1 && !(req->chunked && req->body_length >= 0));
	CHECK(req->headers.n <= HTTP_FIELD_LIMIT && req->query.n <= HTTP_FIELD_LIMIT);
	for (size_t i = 0; i < req->headers.n; i++)
		CHECK(!strpbrk(req->headers.v[i].value, "\r\n"));
	CHECK(!map_get(&req->headers, "transfer-encoding") || req->chunked);
	CHECK(!map_get(&req->headers, "content-length") || req->body_length >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	void *ctx = talloc_new(NULL);
	const char *bytes = (const char *)data, *user, *password;
	struct request req;
	long end = http_head_end(bytes, size);
	CHECK(end <= (long)size);
	/* A head is found at the same place, however little has come behind it. */
	if (end > 0)
		CHECK(http_head_end(bytes, (size_t)end) == end);
	if (end > 0 && http_parse_head(ctx, bytes, (size_t)end, &req) == 0)
		check_taken(&req);
	auth_basic(ctx, talloc_strndup(ctx, bytes, size), &user, &password);
	talloc_free(ctx);
	return 0;
}
