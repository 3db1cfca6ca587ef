// SPDX-License-Identifier: Apache-2.0
#include "api/jobs.h"

#include <pthread.h>

#include "base/log.h"
#include "base/task.h"

struct job {
	struct job *next;
	struct task *task; /* NULL: through with it */
	int (*run)(struct task *, const char *arg);
	const char *arg;
	int64_t due;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct job *first;
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

static bool enlist(struct job *j)
{
	pthread_mutex_lock(&jobs.lock);
	bool open = !jobs.closing;
	if (open) {
		j->next = jobs.first;
		jobs.first = j;
	}
	pthread_mutex_unlock(&jobs.lock);
	return open;
}

static struct task *take_task(struct job *j)
{
	pthread_mutex_lock(&jobs.lock);
	struct task *t = j->task;
	j->task = NULL;
	pthread_mutex_unlock(&jobs.lock);
	return t;
}

/* Whoever waits for the last one goes on when all that it held is let go of. */
static void end(struct job *j)
{
	talloc_free(take_task(j));
	pthread_mutex_lock(&jobs.lock);
	struct job **at = &jobs.first;
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	pthread_cond_broadcast(&jobs.changed);
	pthread_mutex_unlock(&jobs.lock);
	talloc_free(j);
}

static void *work(void *arg)
{
	struct job *j = arg;
	struct task *t = j->task;
	t->cancellable = true;
	if (wait_due(j) && j->run(t, j->arg) < 0)
		log_line(t, "job failed arg=%s error=\"%s\"", j->arg, task_error(t));
	end(j);
	return NULL;
}

bool jobs_start(const char *name, int (*run)(struct task *, const char *arg), const char *arg,
		int delay_ms)
{
	pthread_t thread;
	struct job *j = talloc(NULL, struct job);
	*j = (struct job){ .task = task_new(NULL, name),
			   .run = run,
			   .arg = talloc_strdup(j, arg),
			   .due = clock_ms() + delay_ms };
	if (!enlist(j)) {
		talloc_free(j->task);
		talloc_free(j);
		return false;
	}
	int err = pthread_create(&thread, NULL, work, j);
	if (err == 0) {
		pthread_detach(thread);
		return true;
	}
	log_line(j->task, "job not begun arg=%s error=%d", arg, err);
	end(j);
	return false;
}

void jobs_close(void)
{
	pthread_mutex_lock(&jobs.lock);
	jobs.closing = true;
	for (struct job *j = jobs.first; j; j = j->next)
		if (j->task)
			task_interrupt(j->task);
	pthread_cond_broadcast(&jobs.changed);
	while (jobs.first)
		pthread_cond_wait(&jobs.changed, &jobs.lock);
	pthread_mutex_unlock(&jobs.lock);
}
