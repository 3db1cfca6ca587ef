// SPDX-License-Identifier: Apache-2.0
#include "api/jobs.h"

#include <pthread.h>

#include "base/log.h"
#include "base/task.h"

struct job {
	struct task *task;
	int (*run)(struct task *, const char *arg);
	const char *arg;
	int64_t due;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int running;
	bool closing;
} jobs = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* False: the daemon ends first. */
static bool wait_due(const struct job *j)
{
	pthread_mutex_lock(&jobs.lock);
	while (!jobs.closing && clock_ms() < j->due)
		clock_wait(&jobs.changed, &jobs.lock, j->due);
	bool begins = !jobs.closing;
	pthread_mutex_unlock(&jobs.lock);
	return begins;
}

static void *work(void *arg)
{
	struct job *j = arg;
	struct task *t = j->task;
	if (wait_due(j) && j->run(t, j->arg) < 0)
		log_line(t, "job failed arg=%s error=\"%s\"", j->arg, task_error(t));
	talloc_free(t);
	pthread_mutex_lock(&jobs.lock);
	jobs.running--;
	pthread_cond_broadcast(&jobs.changed);
	pthread_mutex_unlock(&jobs.lock);
	return NULL;
}

static bool enlist(void)
{
	pthread_mutex_lock(&jobs.lock);
	bool open = !jobs.closing;
	jobs.running += open;
	pthread_mutex_unlock(&jobs.lock);
	return open;
}

void jobs_start(const char *name, int (*run)(struct task *, const char *arg), const char *arg,
		int delay_ms)
{
	pthread_t thread;
	if (!enlist())
		return;
	struct task *t = task_new(NULL, name);
	struct job *j = talloc(t, struct job);
	*j = (struct job){ t, run, talloc_strdup(t, arg), clock_ms() + delay_ms };
	int err = pthread_create(&thread, NULL, work, j);
	if (err == 0) {
		pthread_detach(thread);
		return;
	}
	log_line(t, "job not begun arg=%s error=%d", arg, err);
	talloc_free(t);
	pthread_mutex_lock(&jobs.lock);
	jobs.running--;
	pthread_mutex_unlock(&jobs.lock);
}

void jobs_close(void)
{
	pthread_mutex_lock(&jobs.lock);
	jobs.closing = true;
	pthread_cond_broadcast(&jobs.changed);
	while (jobs.running)
		pthread_cond_wait(&jobs.changed, &jobs.lock);
	pthread_mutex_unlock(&jobs.lock);
}
