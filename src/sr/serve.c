// SPDX-License-Identifier: Apache-2.0
#include "sr/serve.h"

#include <errno.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/sr.h"

enum {
	COMPLAINT = 4096,
	NOBODY = 65534,
};

/* ---- its words ---- */

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

/* Who reads an image that nobody vouches for is nobody, too, and can become nobody else. */
static int add_nobody(struct task *t, struct words *w, int image)
{
	const char *const words[] = { "setpriv",        "--reuid=65534",  "--regid=65534",
				      "--clear-groups", "--no-new-privs", "--pdeathsig=KILL" };
	if (geteuid() != 0)
		return 0;
	if (fchown(image, NOBODY, NOBODY) < 0)
		return task_fail_errno(t, errno, "fchown");
	for (size_t i = 0; i < COUNT(words); i++)
		add(t, w, words[i]);
	return 0;
}

/* The image is standard input: it may have no name any more. */
static void add_image(struct task *t, struct words *w, struct served *s)
{
	s->node = "image";
	add(t, w, "--blockdev");
	add(t, w,
	    "{\"driver\": \"qcow2\", \"node-name\": \"image\", \"read-only\": true, "
	    "\"backing\": null, \"file\": {\"driver\": \"file\", \"filename\": "
	    "\"/proc/self/fd/0\", \"read-only\": true, \"locking\": \"off\"}}");
}

/* The array blockdev gives. */
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

static int all_words(struct task *t, struct served *v, size_t n, int image, struct words *ret)
{
	struct words w = { 0 };
	if (image >= 0 && add_nobody(t, &w, image) < 0)
		return -1;
	add(t, &w, "qemu-storage-daemon");
	for (size_t i = 0; i < n; i++)
		if (!v[i].sr)
			add_image(t, &w, &v[i]);
		else if (add_volume(t, &w, &v[i]) < 0)
			return -1;
	add(t, &w, "--nbd-server");
	add(t, &w, "addr.type=fd,addr.str=3");
	for (size_t i = 0; i < n; i++)
		add_export(t, &w, &v[i]);
	*ret = w;
	return 0;
}

/* ---- beginning ---- */

#define FOLDERS "/tmp/stillframe-nbd-"

/* The socket lies in a folder that only we can enter: whoever connects has the disk.  Its name says whose
 * it is. */
static int make_socket(struct task *t, struct server *x)
{
	char *folder = str(t, FOLDERS "%d-XXXXXX", (int)getpid());
	if (!mkdtemp(folder))
		return task_fail_errno(t, errno, folder);
	x->folder = folder;
	x->socket = str(t, "%s/nbd", folder);
	return unix_listen(t, x->socket, 0600);
}

/* Only the program keeps the listening socket, so that nobody waits for one that has ended. */
int serve_start(struct task *t, struct server *x, struct served *v, size_t n)
{
	struct words w;
	int image = -1;
	*x = (struct server){
		.served = v,
		.n = n,
		.id = v[n - 1].id,
		.image = !v[n - 1].sr,
		.complaints = memfd_create("complaints", MFD_CLOEXEC),
	};
	if (x->complaints < 0)
		return task_fail_errno(t, errno, "memfd_create");
	for (size_t i = 0; i < n; i++)
		image = v[i].sr ? image : v[i].image;
	if (all_words(t, v, n, image, &w) < 0)
		return -1;
	FD_SCOPE int listening = make_socket(t, x);
	if (listening < 0)
		return -1;
	return run_start(t, w.v, (const int[]){ image, -1, x->complaints, listening }, &x->pid);
}

/* ---- the end ---- */

void serve_kill(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

/* 1: it has ended, 0: not yet. */
static int ended_within(struct task *t, pid_t pid, int ms)
{
	FD_SCOPE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return task_fail_errno(t, errno, "pidfd_open");
	int ready = task_wait(t, pidfd, POLLIN, ms);
	return ready < 0 ? -1 : ready > 0;
}

/* ended: as ended_within() says. */
static int reap(struct task *t, pid_t *pid, int ended)
{
	int status;
	if (ended < 0)
		return -1;
	if (ended == 0)
		return fail(t, INTERNAL_ERROR, "a transfer's program did not end in time");
	waitpid(*pid, &status, 0);
	*pid = 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int serve_wait(struct task *t, pid_t *pid)
{
	return reap(t, pid, ended_within(t, *pid, delay_ms(DELAY_SERVE_FLUSH)));
}

/* It looks whether it was told, then sleeps; told in between it would sleep on, so it is told until it ends
 * (QEMU's storage-daemon/qemu-storage-daemon.c, qemu_system_killed). */
static int tell_to_end(struct task *t, pid_t *pid)
{
	int64_t until = clock_ms() + delay_ms(DELAY_SERVE_FLUSH);
	int ended = 0;
	while (ended == 0 && clock_ms() < until) {
		kill(*pid, SIGTERM);
		ended = ended_within(t, *pid, delay_ms(DELAY_SERVE_END_AGAIN));
	}
	return reap(t, pid, ended);
}

/* On t. */
static const char *complaint(struct task *t, const struct server *x)
{
	char *said = talloc_zero_array(t, char, COMPLAINT + 1);
	if (pread(x->complaints, said, COMPLAINT, 0) < 0)
		return strerror(errno);
	const char *text = said;
	for (size_t i = 0; i < x->n; i++)
		text = sr_readable(t, x->served[i].sr, text);
	return text;
}

int serve_complain(struct task *t, struct server *x)
{
	const char *text = complaint(t, x);
	log_line(t, "transfer failed volume=%s said=%s", x->id, text);
	if (strstr(text, "No space left on device"))
		return task_fail_errno(t, ENOSPC, x->id);
	if (strstr(text, "Disk quota exceeded"))
		return task_fail_errno(t, EDQUOT, x->id);
	if (x->image)
		return fail(t, IMPORT_ERROR, str(t, "the image cannot be read: %s", text));
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%s: %s]", x->id, text), "");
}

/* A program closes its pipe a moment before its end can be seen. */
static bool ends_soon(pid_t pid)
{
	FD_SCOPE int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	return pidfd >= 0 && poll(&p, 1, delay_ms(DELAY_SERVE_COMPLAINT)) > 0;
}

static bool says_something(const struct server *x)
{
	struct stat st;
	return fstat(x->complaints, &st) == 0 && st.st_size > 0;
}

/* Here a pipe was closed, or NBD said EIO: why, only the program knows. */
static bool is_vague(const struct task *t)
{
	return t->code == INTERNAL_ERROR || t->code == SR_BACKEND_FAILURE_46;
}

int serve_find_cause(struct task *t, struct server *x, pid_t pid)
{
	if (!is_vague(t) || (!(x->image && says_something(x)) && !ends_soon(pid)))
		return -1;
	task_forgive(t);
	return serve_complain(t, x);
}

static int end_well(struct task *t, struct server *x)
{
	int ok = tell_to_end(t, &x->pid);
	return ok == 0 ? serve_complain(t, x) : ok < 0 ? -1 : 0;
}

int serve_end(struct task *t, struct server *x, int result)
{
	if (result == 0)
		result = end_well(t, x);
	serve_kill(&x->pid);
	fd_close(&x->complaints);
	if (x->folder) {
		unlink(x->socket);
		rmdir(x->folder);
	}
	return result;
}

void serve_tidy(struct task *t)
{
	glob_t found;
	if (glob(FOLDERS "*", GLOB_NOSORT, NULL, &found) != 0)
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		const char *folder = found.gl_pathv[i];
		struct stat st;
		int pid = atoi(folder + strlen(FOLDERS));
		bool ours =
			lstat(folder, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
		if (!ours || pid <= 0 || kill(pid, 0) == 0)
			continue;
		unlink(str(t, "%s/nbd", folder));
		rmdir(folder);
	}
	globfree(&found);
}
