// SPDX-License-Identifier: Apache-2.0
#include "vmm/tpm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/process.h"
#include "vmm/vmm.h"

/* What a TPM may remember: swtpm's file has some KiB. */
enum { REMEMBERED_MOST = 256 << 10 };

/* By this argument the process is known again. */
#define MARK "dir=.,mode=0600"

static const char *folder_of(struct task *t, const char *dir)
{
	return str(t, "%s/tpm", dir);
}

static const char *state_of(struct task *t, const char *dir)
{
	return str(t, "%s/tpm/state", dir);
}

static const char *file_of(struct task *t, const char *dir)
{
	return str(t, "%s/tpm/state/tpm2-00.permall", dir);
}

/* ---- the file ---- */

/* Another than a plain file of its own is none of swtpm's making. */
const char *tpm_read(struct task *t, const char *dir)
{
	const char *path = file_of(t, dir);
	struct stat st;
	FD_SCOPE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return "";
	if (fd < 0 || fstat(fd, &st) < 0) {
		task_fail_errno(t, errno, path);
		return NULL;
	}
	if (!S_ISREG(st.st_mode) || st.st_nlink > 1 || st.st_size > REMEMBERED_MOST)
		return fail_ptr(t, INTERNAL_ERROR,
				str(t, "%s: not what a TPM emulator writes", path));
	unsigned char *bytes = talloc_size(t, (size_t)st.st_size + 1);
	ssize_t n = io_read(t, fd, bytes, (size_t)st.st_size, 0);
	return n < 0 ? NULL : hex_text(t, bytes, (size_t)n);
}

static int own(struct task *t, const char *path, const struct vmm_config *c)
{
	if (geteuid() == 0 && lchown(path, c->uid, c->gid) < 0)
		return task_fail_errno(t, errno, path);
	return 0;
}

int tpm_write(struct task *t, const struct vmm_config *c)
{
	const char *state = state_of(t, c->dir), *file = file_of(t, c->dir);
	size_t n = 0;
	unsigned char *bytes = hex_bytes(t, c->tpm, &n);
	if (!bytes)
		return fail(t, INTERNAL_ERROR, "what the TPM remembers is not hex");
	if (dir_make(t, folder_of(t, c->dir), 0700) < 0 || dir_make(t, state, 0700) < 0)
		return -1;
	if (n && (file_write_bytes(t, file, bytes, n, 0600) < 0 || own(t, file, c) < 0))
		return -1;
	return own(t, state, c);
}

/* ---- the program ---- */

/* Its working folder is all of the host's files that it needs; the way there is closed to its user. */
static int launch(struct task *t, const struct vmm_config *c, int control)
{
	const char *swtpm = args_program(t, "swtpm");
	const char *const argv[] = { swtpm,        "socket",
				     "--tpm2",     "--terminate",
				     "--tpmstate", MARK,
				     "--ctrl",     str(t, "type=unixio,clientfd=%d", control),
				     NULL };
	struct process_plan plan = { .dir = folder_of(t, c->dir),
				     .folder = state_of(t, c->dir),
				     .argv = argv,
				     .nfds = 1,
				     .fds = &control,
				     .uid = c->uid,
				     .gid = c->gid,
				     .common = c->gid,
				     .uuid = c->uuid,
				     .memory = c->memory };
	struct process p;
	if (!swtpm || process_start(t, &plan, &p) < 0)
		return -1;
	close(p.pidfd);
	return 0;
}

int tpm_start(struct task *t, const struct vmm_config *c, int *ret_control)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return task_fail_errno(t, errno, "socketpair");
	FD_SCOPE int ours = pair[0];
	FD_SCOPE int theirs = pair[1];
	if (tpm_write(t, c) < 0 || launch(t, c, theirs) < 0)
		return -1;
	crash_point();
	*ret_control = ours;
	ours = -1;
	return 0;
}

void tpm_end(const char *dir)
{
	struct task *t = task_new(NULL, "TPM emulator");
	struct process p;
	if (process_find(t, folder_of(t, dir), MARK, &p) > 0) {
		if (!process_gone(&p, delay_ms(DELAY_TPM_END)))
			process_kill(t, &p);
		close(p.pidfd);
	}
	if (t->code)
		log_line(t, "TPM emulator not ended dir=\"%s\" error=\"%s\"", dir, task_error(t));
	talloc_free(t);
}
