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
#include "base/delay.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "db/events.h"

static void retry_undo(struct task *t)
{
	tasks_retry_undo(t);
}

static void forget_deleted(struct task *t)
{
	db_forget_deleted(t, DELETED_LIMIT);
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
	enum delay every;
} timers[] = {
	{ full_look, DELAY_TIMER_FULL },
	{ logs_trim, DELAY_TIMER_LOGS },
	{ sizes_look, DELAY_TIMER_SIZES },
	{ retry_undo, DELAY_TIMER_UNDO },
	{ forget_deleted, DELAY_TIMER_DELETED },
	{ collect_tasks, DELAY_TIMER_TASKS },
	{ host_look, DELAY_TIMER_HOST },
	{ pifs_look, DELAY_TIMER_PIFS },
	{ collect_messages, DELAY_TIMER_MESSAGES },
};

static pthread_t thread;
static int stop_fd = -1;

static void run_timer(const struct timer *timer)
{
	struct task *t = task_new(NULL, "timer");
	timer->run(t);
	if (t->code != NO_ERROR)
		log_line(t, "timer failed error=\"%s\"", task_error(t));
	talloc_free(t);
}

/* Until the first is due, on clock_ms(). */
static int time_left(const int64_t due[COUNT(timers)])
{
	int64_t first = due[0], now = clock_ms();
	for (size_t i = 1; i < COUNT(timers); i++)
		first = due[i] < first ? due[i] : first;
	return first > now ? (int)(first - now) : 0;
}

static void *loop(void *arg)
{
	(void)arg;
	int64_t due[COUNT(timers)];
	struct pollfd p = { .fd = stop_fd, .events = POLLIN };
	for (size_t i = 0; i < COUNT(timers); i++)
		due[i] = clock_ms() + delay_ms(timers[i].every);
	while (poll(&p, 1, time_left(due)) <= 0) {
		for (size_t i = 0; i < COUNT(timers); i++) {
			if (clock_ms() < due[i])
				continue;
			run_timer(&timers[i]);
			due[i] = clock_ms() + delay_ms(timers[i].every);
		}
	}
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
