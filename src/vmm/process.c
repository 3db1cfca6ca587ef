// SPDX-License-Identifier: Apache-2.0
#include "vmm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/cgroup.h"

enum { COMPLAINT_LIMIT = 2000, FILES_WANTED = 65536 };

/* ---- knowing a process again ---- */

static int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* A file of /proc, whose size is not known before it is read; "" when the process is gone. */
static const char *proc_read(struct task *t, pid_t pid, const char *name, size_t limit)
{
	char *s = talloc_zero_array(t, char, limit + 1);
	FD_SCOPE int fd = open(str(t, "/proc/%d/%s", (int)pid, name), O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, s, limit);
	s[n > 0 ? n : 0] = 0;
	return s;
}

/* Field 22 of /proc/PID/stat in clock ticks since boot, 0 when it has ended.  The program's name,
 * field 2, may hold anything, parentheses too: fields are counted from the last one. */
static uint64_t start_time(struct task *t, pid_t pid)
{
	const char *s = strrchr(proc_read(t, pid, "stat", 4096), ')');
	struct list fields = list_split(t, s ? s : "", ' ');
	int64_t ticks = 0;
	if (fields.n < 21 || streq(fields.v[1], "Z") || streq(fields.v[1], "X") ||
	    !text_int(fields.v[20], &ticks))
		return 0;
	return (uint64_t)ticks;
}

static const char *boot_id(struct task *t)
{
	char *s = file_read(t, "/proc/sys/kernel/random/boot_id", 100);
	if (s)
		s[strcspn(s, "\n")] = 0;
	return s;
}

/* Arguments are separated by zero bytes; the one looked for stands among the first. */
static bool has_argument(struct task *t, pid_t pid, const char *arg)
{
	enum { LOOKED_AT = 1024 };
	const char *s = proc_read(t, pid, "cmdline", LOOKED_AT), *end = s + LOOKED_AT;
	for (; s < end; s += strnlen(s, (size_t)(end - s)) + 1)
		if (streq(s, arg))
			return true;
	return false;
}

static int note(struct task *t, const char *dir, pid_t pid)
{
	const char *boot = boot_id(t);
	if (!boot)
		return -1;
	return file_write(t, str(t, "%s/pid", dir),
			  str(t, "%d %" PRIu64 " %s\n", (int)pid, start_time(t, pid), boot), 0600);
}

int process_find(struct task *t, const char *dir, const char *arg, struct process *ret)
{
	const char *path = str(t, "%s/pid", dir);
	if (!file_exists(path))
		return 0;
	char *text = file_read(t, path, 200);
	const char *boot = boot_id(t);
	if (!text || !boot)
		return -1;
	text[strcspn(text, "\n")] = 0;
	struct list words = list_split(t, text, ' ');
	int64_t pid, started;
	if (words.n != 3 || !text_int(words.v[0], &pid) || !text_int(words.v[1], &started) ||
	    pid < 2 || pid > INT32_MAX)
		return fail(t, INTERNAL_ERROR,
			    str(t,
				"%s is damaged: it does not say which process the VM has. If none "
				"of %s runs, remove that file",
				path, arg));

	/* The descriptor first: what is seen afterwards is seen of the process it stands for. */
	FD_SCOPE int pidfd = pidfd_of((pid_t)pid);
	if (pidfd < 0 || !streq(words.v[2], boot) || started == 0 ||
	    start_time(t, (pid_t)pid) != (uint64_t)started || !has_argument(t, (pid_t)pid, arg))
		return 0;
	*ret = (struct process){ (pid_t)pid, pidfd };
	pidfd = -1;
	return 1;
}

struct process_memory process_memory(struct task *t, const struct process *p)
{
	enum { RESIDENT = 1, DATA = 5, FIELDS = 7 };
	struct list fields = list_split(t, proc_read(t, p->pid, "statm", 256), ' ');
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct process_memory m = { 0 };
	if (fields.n < FIELDS)
		return m;
	m.resident = strtoull(fields.v[RESIDENT], NULL, 10) * page;
	m.promised = strtoull(fields.v[DATA], NULL, 10) * page;
	return m;
}

bool process_gone(const struct process *p, int ms)
{
	struct pollfd f = { .fd = p->pidfd, .events = POLLIN };
	int64_t over = clock_ms() + ms;
	for (;;) {
		int64_t left = over - clock_ms();
		int n = poll(&f, 1, left > 0 ? (int)left : 0);
		if (n >= 0 || errno != EINTR)
			return n > 0;
	}
}

/* The kernel takes a while to take memory back. */
static int ms_to_end(struct task *t, const struct process *p)
{
	uint64_t gib = process_memory(t, p).resident >> 30;
	uint64_t ms = (uint64_t)delay_ms(DELAY_KILL) + gib * (uint64_t)delay_ms(DELAY_KILL_GIB);
	return ms < INT_MAX ? (int)ms : INT_MAX;
}

int process_kill(struct task *t, const struct process *p)
{
	int ms = ms_to_end(t, p);
	if (syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return task_fail_errno(t, errno, "killing the VM's process");
	if (!process_gone(p, ms))
		return fail(t, INTERNAL_ERROR,
			    str(t, "process %d was killed and is still there after %d s",
				(int)p->pid, ms / 1000));
	return 0;
}

/* ---- starting ---- */

/* What goes to and from the one who will be the program. */
struct birth {
	const struct process_plan *plan;
	int born[2]; /* up: its pid; then errno if exec fails, the end if it works */
	int go[2];   /* down: one byte when it is noted; the end if we died */
	int null, log;
	int *kept; /* what the child keeps open, in ascending order */
	size_t nkept;
};

static int ascending(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void keep(struct task *t, struct birth *b, const struct process_plan *p)
{
	const int own[] = { b->born[1], b->go[0], b->null, b->log };
	b->nkept = p->nfds + COUNT(own);
	b->kept = talloc_array(t, int, b->nkept);
	memcpy(b->kept, own, sizeof own);
	if (p->nfds)
		memcpy(b->kept + COUNT(own), p->fds, p->nfds * sizeof *p->fds);
	qsort(b->kept, b->nkept, sizeof *b->kept, ascending);
}

static void birth_done(struct birth *b)
{
	for (int i = 0; i < 2; i++) {
		fd_close(&b->born[i]);
		fd_close(&b->go[i]);
	}
	fd_close(&b->null);
	fd_close(&b->log);
}

static int birth_init(struct task *t, const struct process_plan *p, struct birth *b)
{
	const char *log = str(t, "%s/qemu.log", p->dir);
	*b = (struct birth){ p, { -1, -1 }, { -1, -1 }, -1, -1, NULL, 0 };
	b->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	b->log = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (b->null < 0 || b->log < 0)
		return task_fail_errno(t, errno, log);
	if (pipe2(b->born, O_CLOEXEC) < 0 || pipe2(b->go, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	keep(t, b, p);
	return 0;
}

/* From here to exec only system calls: other threads may have held any lock at the fork.  That is
 * also why ids are set by number: the library's functions would tell all threads. */
static bool drop_rights(const struct process_plan *p)
{
	if (geteuid() == 0 && (syscall(SYS_setgroups, 1, &p->common) < 0 ||
			       syscall(SYS_setresgid, p->gid, p->gid, p->gid) < 0 ||
			       syscall(SYS_setresuid, p->uid, p->uid, p->uid) < 0))
		return false;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

/* One descriptor per layer of each disk; and no core files, which would hold the guest's secrets. */
static void set_limits(void)
{
	struct rlimit files, core = { 0, 0 };
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		if (geteuid() == 0 && files.rlim_max < FILES_WANTED)
			files.rlim_max = FILES_WANTED;
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	setrlimit(RLIMIT_CORE, &core);
}

static void set_signals(void)
{
	struct sigaction def = { .sa_handler = SIG_DFL };
	for (int s = 1; s < NSIG; s++)
		sigaction(s, &def, NULL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* At once, not at exec: the pipe of another birth, kept open here, would make its child wait for a
 * daemon that has died. */
static void close_others(const struct birth *b)
{
	unsigned from = 3;
	for (size_t i = 0; i < b->nkept; i++) {
		unsigned fd = (unsigned)b->kept[i];
		if (fd > from)
			syscall(SYS_close_range, from, fd - 1, 0);
		if (fd >= from)
			from = fd + 1;
	}
	syscall(SYS_close_range, from, ~0U, 0);
}

static bool set_files(const struct process_plan *p, const struct birth *b)
{
	if (dup2(b->null, 0) < 0 || dup2(b->log, 1) < 0 || dup2(b->log, 2) < 0)
		return false;
	for (size_t i = 0; i < p->nfds; i++)
		if (fcntl(p->fds[i], F_SETFD, 0) < 0)
			return false;
	return true;
}

static void become(const void *arg)
{
	const struct birth *b = arg;
	const struct process_plan *p = b->plan;
	close_others(b);
	static char *environment[] = { (char *)(uintptr_t) "PATH=/usr/bin:/bin",
				       (char *)(uintptr_t) "LC_ALL=C", NULL };
	pid_t self = getpid();
	char go;
	if (write(b->born[1], &self, sizeof self) != sizeof self || read(b->go[0], &go, 1) != 1)
		_exit(127);
	umask(077);
	set_signals();
	set_limits();
	if (chdir(p->folder ? p->folder : "/") == 0 && set_files(p, b) && drop_rights(p))
		execve(p->argv[0], (char *const *)(uintptr_t)p->argv, environment);
	int err = errno;
	if (write(b->born[1], &err, sizeof err) < 0)
		_exit(126);
	_exit(127);
}

int process_apart(struct task *t, void (*run)(const void *), const void *arg)
{
	pid_t child = fork();
	if (child < 0)
		return task_fail_errno(t, errno, "fork");
	if (child == 0) {
		setsid();
		if (fork() == 0)
			run(arg);
		_exit(0);
	}
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static int bear(struct task *t, struct birth *b)
{
	if (process_apart(t, become, b) < 0)
		return -1;
	fd_close(&b->born[1]);
	fd_close(&b->go[0]);
	return 0;
}

/* It waits for a word of ours, so it can neither run unnoted nor end before we hold it. */
static int release_it(struct task *t, const struct process_plan *plan, struct birth *b,
		      struct process *p)
{
	if (io_read(t, b->born[0], &p->pid, sizeof p->pid, delay_ms(DELAY_KILL)) != sizeof p->pid)
		return fail(t, INTERNAL_ERROR, "the VM's process could not be started");
	p->pidfd = pidfd_of(p->pid);
	if (p->pidfd < 0)
		return task_fail_errno(t, errno, "pidfd_open");
	if (note(t, plan->dir, p->pid) < 0)
		return -1;
	cgroup_place(t, plan->uuid, p->pid, plan->memory);
	if (io_write(t, b->go[1], "!", 1, delay_ms(DELAY_KILL)) < 0)
		return -1;
	return 0;
}

static int born(struct task *t, const struct process_plan *p, struct birth *b, struct process *ret)
{
	int err = 0;
	if (bear(t, b) < 0 || release_it(t, p, b, ret) < 0)
		return -1;
	ssize_t n = io_read(t, b->born[0], &err, sizeof err, delay_ms(DELAY_KILL));
	if (n < 0)
		return -1;
	return n == 0 ? 0 : task_fail_errno(t, err, p->argv[0]);
}

int process_start(struct task *t, const struct process_plan *p, struct process *ret)
{
	struct birth b;
	struct process new = { .pidfd = -1 };
	int result = birth_init(t, p, &b);
	if (result == 0)
		result = born(t, p, &b, &new);
	birth_done(&b); /* one that still waits for its word ends by this */
	if (result == 0) {
		*ret = new;
	} else if (new.pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, new.pidfd, SIGKILL, NULL, 0);
		process_gone(&new, delay_ms(DELAY_KILL));
		close(new.pidfd);
	}
	return result;
}

const char *process_complaint(struct task *t, const char *dir)
{
	char text[COMPLAINT_LIMIT + 1];
	FD_SCOPE int fd = open(str(t, "%s/qemu.log", dir), O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	off_t start = end > COMPLAINT_LIMIT ? end - COMPLAINT_LIMIT : 0;
	ssize_t n = fd < 0 ? 0 : pread(fd, text, COMPLAINT_LIMIT, start);
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	for (ssize_t i = 0; i < n; i++)
		if ((text[i] < ' ' || text[i] > '~') && text[i] != '\n')
			text[i] = '?'; /* it may be a guest's, and goes into answers as it is */
	return talloc_strndup(t, text, n > 0 ? (size_t)n : 0);
}
