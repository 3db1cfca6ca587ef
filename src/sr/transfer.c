// SPDX-License-Identifier: Apache-2.0
/* transfer.c -- a volume's content as a stream of raw bytes.
 *
 *              pump, here          pipe             socket
 *     export   out  <-- counted  <------  nbdcopy  <------  qemu-storage-daemon  <-- volume
 *     import   in   --> counted  ------>  nbdcopy  ------>  qemu-storage-daemon  --> volume
 *
 * qemu-storage-daemon opens the volume by the layout's own description, layer by layer, so that
 * no program guesses a format or follows a name in an image.  nbdcopy speaks NBD.  All bytes pass
 * through here, which gives progress, the limit of what is taken, and an end to a transfer in
 * which nothing moves.  Both programs die with this process; on cancel they are killed. */
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
	PIECE = 256 << 10, /* what nbdcopy asks for at a time */
	PIPE_BYTES = 1 << 20,
	COMPLAINT = 4096,
};

struct transfer {
	const char *id;
	const char *node;   /* top of the chain */
	const char *folder; /* private, holds the socket */
	const char *socket;
	pid_t server, copier;
	int pipe;       /* our end of nbdcopy's standard input or output */
	int complaints; /* memory file: standard error of both programs */
	char *piece;    /* PIECE bytes */
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

/* The array blockdev gave, as the program's arguments.  Zeros that arrive become holes. */
static const char **server_argv(struct task *t, struct transfer *x, json_t *layers, bool writable)
{
	size_t n = 0, i;
	json_t *layer, *top = json_array_get(layers, json_array_size(layers) - 1);
	const char **argv = talloc_zero_array(t, const char *, 2 * json_array_size(layers) + 6);
	if (writable)
		json_object_set_new(top, "detect-zeroes", json_string("unmap"));
	argv[n++] = "qemu-storage-daemon";
	json_array_foreach (layers, i, layer) {
		argv[n++] = "--blockdev";
		argv[n++] = json_text(argv, layer);
	}
	argv[n++] = "--nbd-server";
	argv[n++] = "addr.type=fd,addr.str=3";
	argv[n++] = "--export";
	argv[n++] = str(argv, "type=nbd,id=volume,node-name=%s,writable=%s", x->node,
			writable ? "on" : "off");
	return argv;
}

/* Only the program keeps the listening socket, so that nobody waits for one that has ended. */
static int start_server(struct task *t, struct transfer *x, const struct sr *sr, bool writable)
{
	json_t *layers;
	if (sr->layout->blockdev(t, sr, x->id, writable, &layers) < 0)
		return -1;
	FD_SCOPE int listening = make_socket(t, x);
	if (listening < 0)
		return -1;
	const char **argv = server_argv(t, x, layers, writable);
	return run_start(t, argv, (const int[]){ -1, -1, x->complaints, listening }, &x->server);
}

static int start_copier(struct task *t, struct transfer *x, bool import)
{
	const char *uri = str(t, "nbd+unix:///%s?socket=%s", x->node, x->socket);
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	FD_SCOPE int theirs = p[import ? 0 : 1];
	x->pipe = p[import ? 1 : 0];
	fcntl(x->pipe, F_SETPIPE_SZ, PIPE_BYTES); /* or as large as it is */
	/* Never wait inside read or write: cancel would not be heard.  nbdcopy's end is its own. */
	fcntl(x->pipe, F_SETFL, fcntl(x->pipe, F_GETFL) | O_NONBLOCK);
	const char *const argv[] = { "nbdcopy",          "--flush",          "--",
				     import ? "-" : uri, import ? uri : "-", NULL };
	const int fds[4] = { import ? theirs : -1, import ? -1 : theirs, x->complaints, -1 };
	return run_start(t, argv, fds, &x->copier);
}

static int transfer_open(struct task *t, struct transfer *x, const struct sr *sr, const char *id,
			 bool import)
{
	*x = (struct transfer){
		.id = id,
		.node = volume_node(t, id),
		.pipe = -1,
		.complaints = memfd_create("complaints", MFD_CLOEXEC),
		.piece = talloc_array(t, char, PIECE),
	};
	if (x->complaints < 0)
		return task_fail_errno(t, errno, "memfd_create");
	if (start_server(t, x, sr, import) < 0)
		return -1;
	return start_copier(t, x, import);
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

/* ---- public ---- */

int sr_export(struct task *t, const struct sr *sr, const char *id, int out)
{
	struct transfer x;
	struct volume v;
	if (sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	int result = transfer_open(t, &x, sr, id, false);
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
	int result = transfer_open(t, &x, sr, id, true);
	if (result == 0) {
		struct unblocked u = unblock(in);
		result = pump_in(t, &x, in, v.virtual_size, expected);
		reblock(u);
	}
	if (transfer_close(t, &x, result) < 0)
		return -1;
	return sr->layout->sync ? sr->layout->sync(t, sr, id) : 0;
}
