// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>

#include "api/metadata.h"
#include "base/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const none[] = { NULL };
	struct task *t = task_new(NULL, "fuzz");
	struct VM_row *vm = row_new(t, VM);
	metadata_read(t, talloc_strndup(t, (const char *)data, n), &vm->row, none);
	talloc_free(t);
	return 0;
}
