// SPDX-License-Identifier: Apache-2.0
/* fuzz_query.c -- the language of get_all_records_where. */
#include <stdint.h>

#include "api/query.h"
#include "base/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	const struct field *f;
	const char *value;
	struct query *q =
		query_parse(t, &class_VM, talloc_strndup(t, (const char *)data, size));
	if (q)
		query_needs(q, &f, &value);
	talloc_free(t);
	return 0;
}
