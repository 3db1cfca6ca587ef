// SPDX-License-Identifier: Apache-2.0
#include "stillframed/timers.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
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
#include "stillframed/caretaker.h"

static void retry_undo(struct task *t)
{
	tasks_retry_undo(t);
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
	{ full_look, DELAY_TIMER_FULL },           { logs_trim, DELAY_TIMER_LOGS },
	{ sizes_look, DELAY_TIMER_SIZES },         { retry_undo, DELAY_TIMER_UNDO },
	{ collect_tasks, DELAY_TIMER_TASKS },      { host_look, DELAY_TIMER_HOST },
	{ pifs_look, DELAY_TIMER_PIFS },           { collect_messages, DELAY_TIMER_MESSAGES },
	{ caretaker_look, DELAY_TIMER_CARETAKER },
};

static pthread_t threads[COUNT(timers)];
static size_t running;
static int stop_fd = -1; /* readable: they are to end */

static void run_timer(const struct timer *timer)
{
	struct task *t = task_new(NULL, "timer");
	timer->run(t);
	if (t->code != NO_ERROR)
		log_line(t, "timer failed error=\"%s\"", task_error(t));
	talloc_free(t);
}

/* Each has a thread of its own: a storage that does not answer holds up what looks at storages. */
static void *loop(void *arg)
{
	const struct timer *timer = arg;
	struct pollfd p = { .fd = stop_fd, .events = POLLIN };
	while (poll(&p, 1, delay_ms(timer->every)) <= 0)
		run_timer(timer);
	return NULL;
}

int timers_start(struct task *t)
{
	stop_fd = eventfd(0, EFD_CLOEXEC);
	if (stop_fd < 0)
		return task_fail_errno(t, errno, "timers");
	for (running = 0; running < COUNT(timers); running++) {
		int err = pthread_create(&threads[running], NULL, loop,
					 (void *)(uintptr_t)&timers[running]);
		if (err)
			return task_fail_errno(t, err, "timers");
	}
	return 0;
}

void timers_stop(void)
{
	if (stop_fd < 0)
		return;
	eventfd_write(stop_fd, 1);
	while (running > 0)
		pthread_join(threads[--running], NULL);
	close(stop_fd);
	stop_fd = -1;
}
