// SPDX-License-Identifier: Apache-2.0
/* fuzz_xmlrpc.c -- what a client posts as XML-RPC, and texts on their way out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/task.h"
#include "wire/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	struct buffer out = { 0 };
	json_t *params = NULL;
	char *body = talloc_strndup(t, (const char *)data, size);
	size_t tags, n = strlen(body);
	if (xmlrpc_shape(body, n, &tags) && tags > n)
		abort();
	if (xmlrpc_shape(body, n, &tags) && xmlrpc_read(t, body, n, &params))
		json_array_size(params);
	xml_escape(&out, body);
	json_escape(&out, body);
	free(out.text);
	talloc_free(t);
	return 0;
}
