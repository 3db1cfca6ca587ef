// SPDX-License-Identifier: Apache-2.0
#include "vmm/args.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/list.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/cpu.h"
#include "vmm/devices.h"
#include "vmm/disks.h"
#include "vmm/vmm.h"

/* The same for every VM.  A value of NULL: the option has none. */
static const struct {
	const char *option, *value;
} same[] = {
	{ "-nodefaults", NULL },
	{ "-no-user-config", NULL },
	{ "-vga", "none" },
	/* A screen that nobody can reach: those who may see it get a connection from us. */
	{ "-vnc", "none,share=ignore" }, /* a viewer that wants it for itself throws out nobody */
	{ "-rtc", "base=utc" },
	{ "-boot", "strict=on" },
	{ "-object", "throttle-group,id=" DISKS_SIDE_GROUP },
	{ "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" },
	/* The guest runs by our word only, when all else went well. */
	{ "-S", NULL },
};

/* Of a VM that starts anew.  TCG gives what it can, or newer systems' programs die of missing instructions; the five
 * levels of page tables would only cost it time. */
static const struct {
	const char *accel, *cpu;
} cpus[] = {
	{ "tcg", "max,la57=off" },
	{ "kvm", "host" },
};

/* ---- the list ---- */

static int args_free(struct args *a)
{
	for (size_t i = 0; i < a->nfds; i++)
		close(a->fds[i]);
	return 0;
}

void args_add(struct args *a, const char *option, const char *value)
{
	a->argv = talloc_realloc(a, a->argv, const char *, a->n + 3);
	a->argv[a->n++] = talloc_strdup(a, option);
	if (value)
		a->argv[a->n++] = talloc_strdup(a, value);
	a->argv[a->n] = NULL;
}

void args_fd(struct args *a, int fd)
{
	a->fds = talloc_realloc(a, a->fds, int, a->nfds + 1);
	a->fds[a->nfds++] = fd;
}

void args_fd_in_set(struct args *a, int fd, int set, const char *note)
{
	args_fd(a, fd);
	args_add(a, "-add-fd",
		 str(a, "fd=%d,set=%d%s%s", fd, set, note ? ",opaque=" : "", note ? note : ""));
}

int args_set(struct args *a, int fd)
{
	args_fd_in_set(a, fd, ++a->nsets, NULL);
	return a->nsets;
}

const char *args_mark(struct task *t, const char *uuid)
{
	return str(t, "guest=%s,debug-threads=on", uuid);
}

const char *args_program(struct task *t, const char *name)
{
	const char *path = getenv("PATH");
	struct list folders = list_split(t, path ? path : "/usr/bin:/bin", ':');
	for (size_t i = 0; i < folders.n; i++) {
		const char *file = str(t, "%s/%s", folders.v[i], name);
		if (*file == '/' && access(file, X_OK) == 0)
			return file;
	}
	return fail_ptr(t, OPERATION_NOT_ALLOWED, str(t, RUN_NOT_INSTALLED, name));
}

/* ---- its parts ---- */

/* /dev/kvm is often root's alone. */
static int accelerator(struct task *t, struct args *a, const char *accel)
{
	if (!streq(accel, "kvm")) {
		args_add(a, "-accel", accel);
		return 0;
	}
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return task_fail_errno(t, errno, "/dev/kvm");
	args_add(a, "-accel", str(t, "kvm,device=/dev/fdset/%d", args_set(a, fd)));
	return 0;
}

static void processor(struct args *a, const struct vmm_config *c)
{
	if (c->cpu)
		cpu_args(a, c->cpu);
	for (size_t i = 0; !c->cpu && i < COUNT(cpus); i++)
		if (streq(cpus[i].accel, c->accel))
			args_add(a, "-cpu", cpus[i].cpu);
}

/* The guest's memory is in no core file.  With secure boot only code in system management mode
 * writes the variables. */
static void machine(struct task *t, struct args *a, const struct vmm_config *c)
{
	const struct vmm_firmware *f = &c->firmware;
	char *m = str(t, "%s,dump-guest-core=off,vmport=off", c->machine ? c->machine : "q35");
	if (f->code)
		m = talloc_asprintf_append(m, ",smm=%s,pflash0=%s,pflash1=%s",
					   f->secure ? "on" : "off", disks_top_node(t, f->code),
					   disks_top_node(t, f->vars));
	args_add(a, "-machine", m);
	if (f->secure)
		args_add(a, "-global", "driver=cfi.pflash01,property=secure,value=on");
	processor(a, c);
	args_add(a, "-m", str(a, "size=%" PRIu64 "M", c->memory >> 20));
	args_add(a, "-smp", str(a, "cpus=%u", c->vcpus));
	args_add(a, "-uuid", c->uuid);
	args_add(a, "-action",
		 str(t, "reboot=%s,panic=%s", c->ends_on_reboot ? "shutdown" : "reset",
		     c->stands_still_on_crash ? "pause" : "shutdown"));
}

int args_listener(struct task *t, struct args *a, const char *dir, const char *name,
		  const char *more)
{
	int fd = unix_listen(t, str(t, "%s/%s.sock", dir, name), 0600);
	if (fd < 0)
		return -1;
	args_fd(a, fd);
	args_add(a, "-chardev", str(t, "socket,id=%s,fd=%d,server=on,wait=off%s", name, fd, more));
	return 0;
}

static int consoles(struct task *t, struct args *a, const char *dir)
{
	const char *path = str(t, "%s/serial.log", dir);
	int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (log < 0)
		return task_fail_errno(t, errno, path);
	const char *more = str(t, ",logfile=/dev/fdset/%d,logappend=on", args_set(a, log));
	if (args_listener(t, a, dir, "qmp", "") < 0 || args_listener(t, a, dir, "oob", "") < 0 ||
	    args_listener(t, a, dir, "serial", more) < 0)
		return -1;
	args_add(a, "-mon", "chardev=qmp,mode=control");
	args_add(a, "-mon", "chardev=oob,mode=control");
	args_add(a, "-serial", "chardev:serial");
	return 0;
}

/* QEMU opens /dev/fd/N anew, and its user may not be allowed to open this file: a copy in memory
 * then, that nobody can change. */
static int readable_copy(struct task *t, int from)
{
	FD_SCOPE int fd = memfd_create("boot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || fchmod(fd, 0444) < 0)
		return task_fail_errno(t, errno, "memfd_create");
	off_t at = 0;
	ssize_t n;
	while ((n = sendfile(fd, from, &at, 1 << 30)) > 0)
		if (task_check(t) < 0)
			return -1;
	if (n < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return task_fail_errno(t, errno, "copying a kernel or ramdisk");
	int ret = fd;
	fd = -1;
	return ret;
}

static int boot_file(struct task *t, struct args *a, const char *option, int file)
{
	struct stat st;
	if (file < 0)
		return 0;
	if (fstat(file, &st) < 0)
		return task_fail_errno(t, errno, option);
	bool readable = geteuid() != 0 || (st.st_mode & S_IROTH);
	int fd = readable ? fcntl(file, F_DUPFD_CLOEXEC, 3) : readable_copy(t, file);
	if (fd < 0)
		return t->code ? -1 : task_fail_errno(t, errno, option);
	args_fd(a, fd);
	args_add(a, option, str(t, "/dev/fd/%d", fd));
	return 0;
}

static int boot(struct task *t, struct args *a, const struct vmm_config *c)
{
	if (boot_file(t, a, "-kernel", c->kernel) < 0 || boot_file(t, a, "-initrd", c->ramdisk) < 0)
		return -1;
	if (c->kernel >= 0 && c->cmdline && *c->cmdline)
		args_add(a, "-append", c->cmdline);
	return 0;
}

/* ---- coming back ---- */

enum { IMAGE_SET = 1000 }; /* behind the sets that count up, and before those of layers */

const char *args_image(struct task *t)
{
	return str(t, "/dev/fdset/%d", IMAGE_SET);
}

/* Several threads read the file, each by an opening of its own. */
static int incoming(struct task *t, struct args *a, const struct vmm_config *c)
{
	if (c->image < 0)
		return 0;
	int fd = open(str(t, "/proc/self/fd/%d", c->image), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return task_fail_errno(t, errno, "memory image");
	args_fd_in_set(a, fd, IMAGE_SET, NULL);
	args_add(a, "-incoming", "defer");
	return 0;
}

struct args *args_vm(struct task *t, const struct vmm_config *c)
{
	struct args *a = talloc_zero(t, struct args);
	talloc_set_destructor(a, args_free);
	const char *qemu = args_program(t, "qemu-system-x86_64");
	if (!qemu || (c->cpu && cpu_check(t, c->cpu) < 0))
		return NULL;

	args_add(a, qemu, NULL);
	args_add(a, "-name", args_mark(t, c->uuid));
	machine(t, a, c);
	for (size_t i = 0; i < COUNT(same); i++)
		args_add(a, same[i].option, same[i].value);
	if (accelerator(t, a, c->accel) < 0 || consoles(t, a, c->dir) < 0 || boot(t, a, c) < 0 ||
	    incoming(t, a, c) < 0 || disks_args(t, a, c) < 0 || devices_args(t, a, c) < 0)
		return NULL;
	return a;
}
