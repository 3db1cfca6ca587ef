// SPDX-License-Identifier: Apache-2.0
/* transfer.c -- a volume's content as a stream of raw bytes, or to another volume.
 *
 *              pump, here          pipe             socket
 *     export   out  <-- counted  <------  nbdcopy  <------  qemu-storage-daemon  <-- volume
 *     import   in   --> counted  ------>  nbdcopy  ------>  qemu-storage-daemon  --> volume
 *     copy                                nbdcopy  <----->  qemu-storage-daemon  <-> two volumes
 *
 * qemu-storage-daemon opens the volumes by the layout's own description, layer by layer, so that
 * no program guesses a format or follows a name in an image.  nbdcopy speaks NBD.  All bytes that come in or
 * go out pass through here, which gives progress, the limit of what is taken, and an end to a transfer in
 * which nothing moves.  A copy does not come by here: what is a hole in the one volume is asked for, and
 * not read, and remains one in the other.  Both programs die with this process; on cancel they are killed. */
#include "sr/sr.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"

enum {
	STALL_MS = 60000,  /* nothing moved for so long: the transfer ends */
	FLUSH_MS = 600000, /* what is in the page cache has to reach the disk at the end */
	LOOK_MS = 10000,   /* how often a copy is looked after */
	PIECE = 256 << 10, /* what nbdcopy asks for at a time */
	PIPE_BYTES = 1 << 20,
	COMPLAINT = 4096,
};

struct transfer {
	const char *id;     /* of the volume that is named when something fails */
	const char *folder; /* private, holds the socket */
	const char *socket;
	pid_t server, copier;
	int pipe;       /* our end of nbdcopy's standard input or output, or of what it tells */
	int complaints; /* memory file: standard error of both programs */
	char *piece;    /* PIECE bytes */
};

/* A volume for the server. */
struct served {
	const struct sr *sr;
	const char *id;
	bool writable;
	const char *node; /* top of its chain, which is also the export's name */
};

/* ---- programs ---- */

static void end_now(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

/* Waits for the program's end.  1: it ended well, 0: it did not. */
static int wait_end(struct task *t, pid_t *pid, int ms)
{
	int status;
	FD_SCOPE int pidfd = (int)syscall(SYS_pidfd_open, *pid, 0);
	if (pidfd < 0)
		return task_fail_errno(t, errno, "pidfd_open");
	int ready = task_wait(t, pidfd, POLLIN, ms);
	if (ready < 0)
		return -1;
	if (ready == 0)
		return fail(t, INTERNAL_ERROR, "a transfer's program did not end in time");
	waitpid(*pid, &status, 0);
	*pid = 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- setting up ---- */

/* The socket lies in a folder that only we can enter: whoever connects has the disk. */
static int make_socket(struct task *t, struct transfer *x)
{
	char folder[] = "/tmp/stillframe-XXXXXX";
	if (!mkdtemp(folder))
		return task_fail_errno(t, errno, folder);
	x->folder = talloc_strdup(t, folder);
	x->socket = str(t, "%s/nbd", folder);
	return unix_listen(t, x->socket, 0600);
}

/* The arguments of a program, as they come together. */
struct words {
	size_t n;
	const char **v;
};

static void add(struct task *t, struct words *w, const char *word)
{
	w->v = talloc_realloc(t, w->v, const char *, w->n + 2);
	w->v[w->n++] = word;
	w->v[w->n] = NULL;
}

/* The array blockdev gives.  Zeros that arrive become holes. */
static int add_volume(struct task *t, struct words *w, struct served *s)
{
	json_t *layers, *layer, *top;
	size_t i;
	if (s->sr->layout->blockdev(t, s->sr, s->id, s->writable, &layers) < 0)
		return -1;
	top = json_array_get(layers, json_array_size(layers) - 1);
	s->node = talloc_strdup(t, json_string_value(json_object_get(top, "node-name")));
	if (s->writable)
		json_object_set_new(top, "detect-zeroes", json_string("unmap"));
	json_array_foreach (layers, i, layer) {
		add(t, w, "--blockdev");
		add(t, w, json_text(t, layer));
	}
	return 0;
}

static void add_export(struct task *t, struct words *w, const struct served *s)
{
	add(t, w, "--export");
	add(t, w,
	    str(t, "type=nbd,id=%s,node-name=%s,writable=%s", s->node, s->node,
		s->writable ? "on" : "off"));
}

/* Only the program keeps the listening socket, so that nobody waits for one that has ended. */
static int start_server(struct task *t, struct transfer *x, struct served *v, size_t n)
{
	struct words w = { 0 };
	add(t, &w, "qemu-storage-daemon");
	for (size_t i = 0; i < n; i++)
		if (add_volume(t, &w, &v[i]) < 0)
			return -1;
	add(t, &w, "--nbd-server");
	add(t, &w, "addr.type=fd,addr.str=3");
	for (size_t i = 0; i < n; i++)
		add_export(t, &w, &v[i]);
	FD_SCOPE int listening = make_socket(t, x);
	if (listening < 0)
		return -1;
	return run_start(t, w.v, (const int[]){ -1, -1, x->complaints, listening }, &x->server);
}

static const char *uri(struct task *t, const struct transfer *x, const struct served *s)
{
	return str(t, "nbd+unix:///%s?socket=%s", s->node, x->socket);
}

/* nbdcopy with one end of a pipe as its descriptor 0, 1 or 3. */
static int start_copier(struct task *t, struct transfer *x, const char *const *argv, int theirs_as)
{
	int p[2], fds[4] = { -1, -1, x->complaints, -1 };
	bool reads = theirs_as == 0;
	if (pipe2(p, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	FD_SCOPE int theirs = p[reads ? 0 : 1];
	x->pipe = p[reads ? 1 : 0];
	fcntl(x->pipe, F_SETPIPE_SZ, PIPE_BYTES); /* or as large as it is */
	/* Never wait inside read or write: cancel would not be heard.  nbdcopy's end is its own. */
	fcntl(x->pipe, F_SETFL, fcntl(x->pipe, F_GETFL) | O_NONBLOCK);
	fds[theirs_as] = theirs;
	return run_start(t, argv, fds, &x->copier);
}

static int start_stream(struct task *t, struct transfer *x, const struct served *s)
{
	const char *volume = uri(t, x, s);
	bool import = s->writable;
	return start_copier(t, x,
			    RUN_ARGV("nbdcopy", "--flush", "--", import ? "-" : volume,
				     import ? volume : "-"),
			    import ? 0 : 1);
}

/* over: what is a hole in the one has to be made one in the other. */
static int start_copy(struct task *t, struct transfer *x, const struct served *from,
		      const struct served *to, bool over)
{
	const char *source = uri(t, x, from), *target = uri(t, x, to);
	const char *const *argv =
		over ? RUN_ARGV("nbdcopy", "--flush", "--progress=3", "--", source, target)
		     : RUN_ARGV("nbdcopy", "--flush", "--destination-is-zero", "--progress=3", "--",
				source, target);
	return start_copier(t, x, argv, 3);
}

/* Serves the volumes; errors are about the last one. */
static int transfer_open(struct task *t, struct transfer *x, struct served *v, size_t n)
{
	*x = (struct transfer){
		.id = v[n - 1].id,
		.pipe = -1,
		.complaints = memfd_create("complaints", MFD_CLOEXEC),
		.piece = talloc_array(t, char, PIECE),
	};
	if (x->complaints < 0)
		return task_fail_errno(t, errno, "memfd_create");
	return start_server(t, x, v, n);
}

static int stream_open(struct task *t, struct transfer *x, const struct sr *sr, const char *id,
		       bool import)
{
	struct served s = { sr, id, import, NULL };
	return transfer_open(t, x, &s, 1) < 0 ? -1 : start_stream(t, x, &s);
}

/* ---- the end ---- */

/* What the programs complained of, when one of them is the cause. */
static int complain(struct task *t, struct transfer *x)
{
	char *text = talloc_zero_array(t, char, COMPLAINT + 1);
	if (pread(x->complaints, text, COMPLAINT, 0) < 0)
		text = talloc_strdup(t, strerror(errno));
	log_line(t, "transfer failed volume=%s said=%s", x->id, text);
	if (strstr(text, "No space left on device"))
		return task_fail_errno(t, ENOSPC, x->id);
	if (strstr(text, "Disk quota exceeded"))
		return task_fail_errno(t, EDQUOT, x->id);
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", x->id, text), "");
}

/* A program closes its pipe a moment before its end can be seen. */
static bool ends_soon(pid_t pid)
{
	FD_SCOPE int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return pidfd >= 0 && poll(&p, 1, 500) > 0;
}

/* A pipe that broke is no cause: the program behind it ended, and said why. */
static int find_cause(struct task *t, struct transfer *x)
{
	if (t->code != INTERNAL_ERROR || !ends_soon(x->copier))
		return -1;
	task_forgive(t);
	return complain(t, x);
}

/* The pump is through: both programs end well, the server when it is told to, having closed the
 * image. */
static int finish(struct task *t, struct transfer *x)
{
	fd_close(&x->pipe);
	int ok = wait_end(t, &x->copier, FLUSH_MS);
	if (ok > 0) {
		kill(x->server, SIGTERM);
		ok = wait_end(t, &x->server, FLUSH_MS);
	}
	return ok == 0 ? complain(t, x) : ok < 0 ? -1 : 0;
}

static int transfer_close(struct task *t, struct transfer *x, int result)
{
	if (result == 0)
		result = finish(t, x);
	else
		result = find_cause(t, x);
	end_now(&x->copier);
	end_now(&x->server);
	fd_close(&x->pipe);
	fd_close(&x->complaints);
	if (x->folder) {
		unlink(x->socket);
		rmdir(x->folder);
	}
	return result;
}

/* ---- the pump ---- */

/* The caller's descriptor must not block either; what it was like is put back. */
struct unblocked {
	int fd, flags;
};

static struct unblocked unblock(int fd)
{
	struct unblocked u = { fd, fcntl(fd, F_GETFL) };
	if (u.flags >= 0)
		fcntl(fd, F_SETFL, u.flags | O_NONBLOCK);
	return u;
}

static void reblock(struct unblocked u)
{
	if (u.flags >= 0)
		fcntl(u.fd, F_SETFL, u.flags);
}

/* From one to the other until the end or limit bytes; total is for the progress. */
static int pump(struct task *t, struct transfer *x, int from, int to, uint64_t limit,
		uint64_t total, uint64_t *ret)
{
	uint64_t done = 0;
	while (done < limit) {
		size_t want = limit - done < PIECE ? (size_t)(limit - done) : PIECE;
		ssize_t got = io_read(t, from, x->piece, want, STALL_MS);
		if (got < 0 || io_write(t, to, x->piece, (size_t)got, STALL_MS) < 0)
			return -1;
		done += (uint64_t)got;
		task_progress(t, (double)done / (double)total);
		if ((size_t)got < want)
			break;
	}
	*ret = done;
	return 0;
}

static int pump_out(struct task *t, struct transfer *x, int out, uint64_t size)
{
	uint64_t done;
	struct unblocked u = unblock(out);
	int result = pump(t, x, x->pipe, out, size, size, &done);
	reblock(u);
	if (result == 0 && done < size)
		return complain(t, x);
	return result;
}

static int too_small(struct task *t, const char *id, uint64_t needed)
{
	return fail(t, VDI_TOO_SMALL, id, str(t, "%llu", (unsigned long long)needed));
}

/* Announced bytes must come, all of them; without a number the stream's end is the end. */
static int pump_in(struct task *t, struct transfer *x, int in, uint64_t size, uint64_t expected)
{
	uint64_t done = 0;
	uint64_t limit = expected ? expected : size;
	if (pump(t, x, in, x->pipe, limit, limit, &done) < 0)
		return -1;
	if (done < expected)
		return fail(t, INTERNAL_ERROR,
			    str(t,
				"the data ended after %llu of %llu bytes; the disk's content is "
				"undefined",
				(unsigned long long)done, (unsigned long long)expected));
	if (expected || done < size)
		return 0;
	ssize_t more = io_read(t, in, x->piece, 1, STALL_MS);
	return more > 0 ? too_small(t, x->id, size + 1) : (int)more;
}

/* ---- a copy, looked after ---- */

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
static int follow(struct task *t, struct transfer *x)
{
	char lines[256];
	int64_t used = 0, moved = clock_ms();
	for (;;) {
		int ready = task_wait(t, x->pipe, POLLIN, LOOK_MS);
		ssize_t got = ready > 0 ? read(x->pipe, lines, sizeof lines - 1) : -1;
		if (ready < 0)
			return -1;
		if (got == 0)
			return 0;
		if (got > 0) {
			lines[got] = 0;
			tell_progress(t, lines);
		}
		int64_t now_used = cpu_time(x->copier);
		if (now_used != used)
			moved = clock_ms();
		else if (clock_ms() - moved > FLUSH_MS)
			return fail(t, INTERNAL_ERROR, "the copy of a disk does not get on");
		used = now_used;
	}
}

/* ---- public ---- */

int sr_export(struct task *t, const struct sr *sr, const char *id, int out)
{
	struct transfer x;
	struct volume v;
	if (sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	int result = stream_open(t, &x, sr, id, false);
	if (result == 0)
		result = pump_out(t, &x, out, v.virtual_size);
	return transfer_close(t, &x, result);
}

int sr_import(struct task *t, const struct sr *sr, const char *id, int in, uint64_t expected)
{
	struct transfer x;
	struct volume v;
	if (sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	if (expected > v.virtual_size)
		return too_small(t, id, expected);
	int result = stream_open(t, &x, sr, id, true);
	if (result == 0) {
		struct unblocked u = unblock(in);
		result = pump_in(t, &x, in, v.virtual_size, expected);
		reblock(u);
	}
	if (transfer_close(t, &x, result) < 0)
		return -1;
	return sr->layout->sync ? sr->layout->sync(t, sr, id) : 0;
}

static int copy(struct task *t, const struct sr *from, const char *id, const struct sr *to,
		const char *new_id, bool over)
{
	struct transfer x;
	struct served volumes[] = { { from, id, false, NULL }, { to, new_id, true, NULL } };
	int result = transfer_open(t, &x, volumes, COUNT(volumes));
	if (result == 0)
		result = start_copy(t, &x, &volumes[0], &volumes[1], over);
	if (result == 0)
		result = follow(t, &x);
	if (transfer_close(t, &x, result) < 0)
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
