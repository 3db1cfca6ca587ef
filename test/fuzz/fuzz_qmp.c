// SPDX-License-Identifier: Apache-2.0
/* fuzz_qmp.c -- what a QEMU that its guest has taken over may write to us: once to the line
 * reader, in pieces, and once as the whole life of a connection. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "vmm/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int message(void *arg, json_t *m)
{
	(void)arg;
	return json_is_object(m) ? 0 : -1;
}

/* The first byte says how long the pieces are. */
static void lines(const uint8_t *data, size_t size)
{
	struct qmp_lines l = { 0 };
	size_t piece = size ? 1 + data[0] : 1;
	for (size_t at = 0; at < size; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		if (qmp_feed(&l, (const char *)data + at, n, message, NULL) < 0)
			break;
	}
	free(l.unread.text);
}

static void event(void *arg, const char *name, const json_t *data)
{
	(void)arg;
	if (!name || (data && json_typeof(data) > JSON_NULL))
		abort();
}

static void ended(void *arg, int closing)
{
	(void)arg;
	(void)closing;
}

static void connection(const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	int pair[2];
	if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		size = 0;
	if (size && send(pair[1], data, size, 0) == (ssize_t)size) {
		shutdown(pair[1], SHUT_WR);
		struct qmp *q = qmp_open(t, pair[0], 1000, false,
					 (struct qmp_handler){ event, ended, NULL, "vm" });
		struct qmp_call c = { .command = "query-status", .query = true };
		if (q && qmp_call(t, q, &c) == 0 && !c.ret)
			abort();
		if (q)
			qmp_close(q);
		close(pair[1]);
	}
	talloc_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	lines(data, size);
	connection(data, size);
	return 0;
}
