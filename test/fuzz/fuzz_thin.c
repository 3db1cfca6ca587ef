// SPDX-License-Identifier: Apache-2.0
/* fuzz_thin.c -- frames of the thin CLI protocol, and the body of POST /cli. */
#include <stdint.h>

#include "base/frame.h"
#include "base/task.h"
#include "base/text.h"
#include "cli/thin.h"
#include "unit/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	struct frame f;
	/* What is read is written again to the very same bytes. */
	if (frame_read(t, data, size, &f)) {
		size_t n;
		unsigned char *bytes = frame_write(t, &f, &n);
		CHECK(n == size + 4 && memcmp(bytes + 4, data, size) == 0);
	}
	struct thin_request r;
	if (thin_parse_body(t, (const char *)data, size, &r) == 0) {
		CHECK(r.args.n <= 1000);
		for (size_t i = 0; i < r.args.n; i++)
			CHECK(*r.args.v[i] && !strchr(r.args.v[i], '\n'));
	}
	talloc_free(t);
	return 0;
}
