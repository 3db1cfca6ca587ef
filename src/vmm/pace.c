// SPDX-License-Identifier: Apache-2.0
#include "vmm/pace.h"

#include <jansson.h>

#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/qmp.h"

/* The statistics take QEMU's main loop 3 ms at 30 layers, 10 ms at 200: the longer, the more seldom. */
enum { FIRST_LOOK_MS = 60, LOOK_MS = 250, LOOK_TIMES = 50 };
/* Disks with fewer requests in a second are idle; of the bytes of busy ones the job gets a part.  A guest
 * that was busy is believed to be idle after so many looks only: it may be held up, perhaps by us. */
enum { IDLE_OPS = 10, SHARE = 4, IDLE_LOOKS = 4 };

struct pace pace_begin(const char *job, unsigned haste)
{
	uint64_t floor = (uint64_t)PACE_FLOOR << (haste < PACE_HASTE_MAX ? haste : PACE_HASTE_MAX);
	return (struct pace){ .job = job, .floor = floor, .speed = floor, .idle = IDLE_LOOKS };
}

static uint64_t number_in(const json_t *stats, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(stats, key));
}

static int guest_io(struct task *t, struct qmp *q, uint64_t *ret_ops, uint64_t *ret_bytes)
{
	struct qmp_call c = { .command = "query-blockstats", .query = true };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	const json_t *disk;
	size_t i;
	uint64_t ops = 0, bytes = 0;
	json_array_foreach (c.ret, i, disk) {
		const json_t *s = json_object_get(disk, "stats");
		ops += number_in(s, "rd_operations") + number_in(s, "wr_operations");
		bytes += number_in(s, "rd_bytes") + number_in(s, "wr_bytes");
	}
	*ret_ops = ops;
	*ret_bytes = bytes;
	return 0;
}

/* A job that has come to its end meanwhile has no speed. */
static void set_speed(struct task *t, struct qmp *q, struct pace *p, uint64_t speed)
{
	if (speed != p->speed)
		qmp_do(task_new(t, t->name), q, "block-job-set-speed",
		       json_pack("{s:s, s:I}", "device", p->job, "speed", (json_int_t)speed));
	p->speed = speed;
}

/* What the guest did since the last look tells what the job gets until the next one. */
static int look(struct task *t, struct qmp *q, struct pace *p)
{
	uint64_t ops, bytes;
	int64_t now = clock_ms(), ms = now - p->since;
	if (guest_io(t, q, &ops, &bytes) < 0)
		return -1;
	int64_t rest = (clock_ms() - now) * LOOK_TIMES;
	uint64_t did = ops - p->ops, moved = bytes - p->bytes;
	bool first = p->since == 0;
	p->ops = ops;
	p->bytes = bytes;
	p->since = now;
	p->next = now + (first ? FIRST_LOOK_MS : rest > LOOK_MS ? rest : LOOK_MS);
	if (first)
		return 0;
	p->idle = did * 1000 < IDLE_OPS * (uint64_t)ms ? p->idle + 1 : 0;
	uint64_t part = p->floor + moved * 1000 / (uint64_t)(ms ? ms : 1) / SHARE;
	set_speed(t, q, p, p->idle > IDLE_LOOKS ? 0 : part);
	return 0;
}

int pace_step(struct task *t, struct qmp *q, struct pace *p, bool sprint)
{
	if (!sprint)
		return clock_ms() < p->next ? 0 : look(t, q, p);
	set_speed(t, q, p, 0);
	return 0;
}
