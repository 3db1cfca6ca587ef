// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "api/provision.h"
#include "base/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* What was read and written again reads the same, unless escapes made it too long. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct task *t = task_new(NULL, "fuzz");
	struct provision p, back;
	if (provision_read(t, talloc_strndup(t, (const char *)data, n), &p) == 0) {
		const char *again = provision_write(t, &p);
		int read = provision_read(t, again, &back);
		assert(strlen(again) > PROVISION_BYTES || (read == 0 && back.n == p.n));
	}
	talloc_free(t);
	return 0;
}
