// SPDX-License-Identifier: Apache-2.0
/* transfer.c -- a volume's content as a stream of raw bytes, or to another volume.
 *
 *     export   out  <--  disk.c  <-- NBD --  qemu-storage-daemon  <-- volume
 *     import   in   -->  disk.c  -- NBD -->  qemu-storage-daemon  --> volume
 *     copy               nbdcopy <-- NBD -->  qemu-storage-daemon  <-> two volumes
 *
 * A copy does not come by here: what is a hole in the one volume is asked for, and not read, and remains one
 * in the other.  Both programs die with this process; on cancel they are killed. */
#include "sr/sr.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/run.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/disk.h"
#include "sr/serve.h"

/* ---- in and out ---- */

int sr_export(struct task *t, const struct sr *sr, const char *id, int out)
{
	struct stream s;
	struct disk *d = disk_open(t, sr, id, false);
	if (!d)
		return -1;
	stream_begin(&s, out, disk_size(d));
	int result = disk_send(t, d, &s);
	stream_end(&s);
	return disk_close(t, d, result);
}

int sr_import(struct task *t, const struct sr *sr, const char *id, int in, uint64_t expected)
{
	struct stream s;
	struct volume v;
	if (sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	if (expected > v.virtual_size)
		return fail(t, VDI_TOO_SMALL, id, str(t, "%llu", (unsigned long long)expected));
	struct disk *d = disk_open(t, sr, id, true);
	if (!d)
		return -1;
	stream_begin(&s, in, expected ? expected : STREAM_OPEN);
	int result = disk_receive(t, d, &s);
	stream_end(&s);
	return disk_close(t, d, result);
}

/* ---- a copy ---- */

struct copier {
	struct server server;
	pid_t pid;
	int pipe; /* what it tells of its progress */
};

static const char *uri(struct task *t, const struct server *x, const struct served *s)
{
	return str(t, "nbd+unix:///%s?socket=%s", s->node, x->socket);
}

/* nbdcopy with the end of a pipe as its descriptor 3.  over: what is a hole in the one has to be made one
 * in the other. */
static int start_copier(struct task *t, struct copier *x, const struct served *from,
			const struct served *to, bool over)
{
	const char *source = uri(t, &x->server, from), *target = uri(t, &x->server, to);
	const char *const *argv =
		over ? RUN_ARGV("nbdcopy", "--flush", "--progress=3", "--", source, target)
		     : RUN_ARGV("nbdcopy", "--flush", "--destination-is-zero", "--progress=3", "--",
				source, target);
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	FD_SCOPE int theirs = p[1];
	x->pipe = p[0];
	return run_start(t, argv, (const int[]){ -1, -1, x->server.complaints, theirs }, &x->pid);
}

/* Nanoseconds of processor time that the program has used; -1: it has ended. */
static int64_t cpu_time(pid_t pid)
{
	clockid_t clock;
	struct timespec used;
	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
		return -1;
	return used.tv_sec * INT64_C(1000000000) + used.tv_nsec;
}

/* nbdcopy tells "N/100", a line each; the last one counts. */
static void tell_progress(struct task *t, char *lines)
{
	char *end = strrchr(lines, '\n');
	if (end)
		*end = 0;
	const char *before = strrchr(lines, '\n');
	task_progress(t, strtod(before ? before + 1 : lines, NULL) / 100);
}

/* Until nbdcopy closes its end.  On a large disk a hundredth takes long: as long as the program works, it
 * gets on. */
static int follow(struct task *t, struct copier *x)
{
	char lines[256];
	int64_t used = 0, moved = clock_ms();
	for (;;) {
		int ready = task_wait(t, x->pipe, POLLIN, delay_ms(DELAY_COPY_LOOK));
		ssize_t got = ready > 0 ? read(x->pipe, lines, sizeof lines - 1) : -1;
		if (ready < 0)
			return -1;
		if (got == 0)
			return 0;
		if (got > 0) {
			lines[got] = 0;
			tell_progress(t, lines);
		}
		int64_t now_used = cpu_time(x->pid);
		if (now_used != used)
			moved = clock_ms();
		else if (clock_ms() - moved > delay_ms(DELAY_COPY_STALL))
			return fail(t, INTERNAL_ERROR, "the copy of a disk does not get on");
		used = now_used;
	}
}

static int copier_end(struct task *t, struct copier *x, int result)
{
	int ok = result == 0 ? serve_wait(t, &x->pid) : -1;
	if (ok == 0)
		serve_complain(t, &x->server);
	if (result < 0)
		serve_find_cause(t, &x->server, x->pid);
	serve_kill(&x->pid);
	fd_close(&x->pipe);
	return serve_end(t, &x->server, ok > 0 ? 0 : -1);
}

static int copy(struct task *t, const struct sr *from, const char *id, const struct sr *to,
		const char *new_id, bool over)
{
	struct copier x = { .pipe = -1 };
	struct served volumes[] = { { from, id, false }, { to, new_id, true } };
	int result = serve_start(t, &x.server, volumes, COUNT(volumes));
	if (result == 0)
		result = start_copier(t, &x, &volumes[0], &volumes[1], over);
	if (result == 0)
		result = follow(t, &x);
	if (copier_end(t, &x, result) < 0)
		return -1;
	return to->layout->sync ? to->layout->sync(t, to, new_id) : 0;
}

int sr_copy(struct task *t, const struct sr *from, const char *id, const struct sr *to,
	    const char *new_id)
{
	return copy(t, from, id, to, new_id, false);
}

int sr_copy_over(struct task *t, const struct sr *from, const char *id, const struct sr *to,
		 const char *old_id)
{
	return copy(t, from, id, to, old_id, true);
}
