// SPDX-License-Identifier: Apache-2.0
/* fuzz_agent.c -- what anybody in a guest may write to its agent's port: to the line reader in pieces, as
 * a reply, as what a reply is read for, and as the other half of a conversation. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/guest_metrics.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_map(const struct map *m)
{
	if (m->n > 256)
		abort();
	for (size_t i = 0; i < m->n; i++)
		if (strlen(m->v[i].value) > 256 || !text_is_utf8(m->v[i].value) ||
		    strpbrk(m->v[i].value, "\x1b\n\r\t\x7f"))
			abort();
}

static void report(struct task *t, const json_t *j)
{
	struct guest_report r = { 0 };
	struct map vifs = { 0 };
	map_set(t, &vifs, "02:00:00:00:00:01", "0");
	report_info(t, &r, j);
	report_os(t, &r, j);
	report_networks(t, &r, j, &vifs);
	check_map(&r.os_version);
	check_map(&r.agent_version);
	check_map(&r.networks);
	check_map(&r.other);
}

static void reply(const char *line, size_t n)
{
	struct task *t = task_new(NULL, "fuzz");
	json_t *m = agent_read(t, line, n);
	if (!m == (t->code == NO_ERROR))
		abort();
	report(t, json_object_get(m, "return"));
	talloc_free(t);
}

/* The first byte says how long the pieces are, and whether marks are waited for. */
static void lines(const char *data, size_t size)
{
	struct agent_lines l = { 0 };
	size_t piece = size ? 1 + (unsigned char)data[0] / 2 : 1;
	bool after_mark = size && data[0] & 1;
	for (size_t at = 0; at < size;) {
		const char *line;
		size_t n, most = size - at < piece ? size - at : piece;
		ssize_t used = agent_feed(&l, data + at, most, after_mark, &line, &n);
		if (used <= 0 || (size_t)used > most)
			abort(); /* no input is long enough for the limit */
		if (line && (!n || line[n] || memchr(line, '\n', n) || memchr(line, 0xff, n)))
			abort();
		if (line)
			reply(line, n);
		if (line)
			agent_is_sync(line, 7);
		at += (size_t)used;
	}
	free(l.line.text);
}

/* The number that was drawn is not known here: it ends in the sync, when all was read. */
static void conversation(const char *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	int pair[2];
	if (size > 0 && size <= 65536 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
		if (send(pair[1], data, size, 0) != (ssize_t)size)
			abort();
		shutdown(pair[1], SHUT_WR);
		struct agent *a = agent_new(t, pair[0]);
		struct agent_call c = { .command = "guest-info", .ms = 5000 };
		if (agent_call(t, a, &c) == 0 || t->code != INTERNAL_ERROR)
			abort();
		close(pair[1]);
	}
	talloc_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	lines((const char *)data, size);
	conversation((const char *)data, size);
	return 0;
}
