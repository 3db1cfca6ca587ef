// SPDX-License-Identifier: Apache-2.0
#include "stillframed/timers.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "api/full.h"
#include "api/host.h"
#include "api/logs.h"
#include "api/message.h"
#include "api/pif.h"
#include "api/sizes.h"
#include "api/tasks.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "db/events.h"

enum { DELETED_KEPT = 10000 };

static void retry_undo(struct task *t)
{
	tasks_retry_undo(t);
}

static void forget_deleted(struct task *t)
{
	db_forget_deleted(t, DELETED_KEPT);
}

static void collect_tasks(struct task *t)
{
	tasks_collect(t);
}

static void collect_messages(struct task *t)
{
	messages_collect(t);
}

static const struct timer {
	void (*run)(struct task *);
	int every_s;
} timers[] = {
	{ full_look, 2 },  { logs_trim, 10 },       { sizes_look, 10 },
	{ retry_undo, 5 }, { forget_deleted, 600 }, { collect_tasks, 60 },
	{ host_look, 60 }, { pifs_look, 60 },       { collect_messages, 60 },
};

static pthread_t thread;
static int stop_fd = -1;

static void tick(int64_t second)
{
	for (size_t i = 0; i < COUNT(timers); i++) {
		if (second % timers[i].every_s)
			continue;
		struct task *t = task_new(NULL, "timer");
		timers[i].run(t);
		if (t->code != NO_ERROR)
			log_line(t, "timer failed error=\"%s\"", task_error(t));
		talloc_free(t);
	}
}

static void *loop(void *arg)
{
	(void)arg;
	struct pollfd p = { .fd = stop_fd, .events = POLLIN };
	for (int64_t second = 1; poll(&p, 1, 1000) <= 0; second++)
		tick(second);
	return NULL;
}

int timers_start(struct task *t)
{
	stop_fd = eventfd(0, EFD_CLOEXEC);
	int err = stop_fd < 0 ? errno : pthread_create(&thread, NULL, loop, NULL);
	return err ? task_fail_errno(t, err, "timers") : 0;
}

void timers_stop(void)
{
	if (stop_fd < 0)
		return;
	eventfd_write(stop_fd, 1);
	pthread_join(thread, NULL);
	close(stop_fd);
	stop_fd = -1;
}
