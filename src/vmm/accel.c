// SPDX-License-Identifier: Apache-2.0
/* accel.c -- KVM or TCG.
 *
 * There are hosts where /dev/kvm opens, a VM can be made, and the guest never gets anywhere:
 * nested ones above all.  So a guest is run that has three instructions:
 *
 *     0x1000  b0 2a   mov $42, %al
 *             e6 80   out %al, $0x80       the host sees the 42 ...
 *             f4      hlt                  ... and the end */
#include "vmm/accel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/list.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/vmm.h"

#ifdef __x86_64__

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { MEMORY = 4096, CODE = 0x1000, PORT = 0x80, VALUE = 42 };
static const unsigned char code[] = { 0xb0, VALUE, 0xe6, PORT, 0xf4 };

/* A VM with one page of memory; its descriptor, or -1. */
static int machine(int kvm)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	void *page = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm < 0 || page == MAP_FAILED)
		return -1;
	memcpy(page, code, sizeof code);
	struct kvm_userspace_memory_region r = { .guest_phys_addr = CODE,
						 .memory_size = MEMORY,
						 .userspace_addr = (uintptr_t)page };
	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -1 : vm;
}

/* A processor in real mode, with flat segments, at the code. */
static int processor(int vm)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = CODE, .rflags = 2 };
	int cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (cpu < 0 || ioctl(cpu, KVM_GET_SREGS, &s) < 0)
		return -1;
	s.cs.base = 0;
	s.cs.selector = 0;
	if (ioctl(cpu, KVM_SET_SREGS, &s) < 0 || ioctl(cpu, KVM_SET_REGS, &r) < 0)
		return -1;
	return cpu;
}

static int kvm_guest(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : machine(kvm);
	int cpu = vm < 0 ? -1 : processor(vm);
	long size = cpu < 0 ? -1 : ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (long)sizeof(struct kvm_run))
		return 1;
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	if (run == MAP_FAILED)
		return 1;
	if (ioctl(cpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO || run->io.port != PORT ||
	    *((unsigned char *)run + run->io.data_offset) != VALUE)
		return 2;
	return ioctl(cpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_HLT ? 3 : 0;
}

static bool cpu_can(struct task *t)
{
	char *line = NULL;
	size_t size = 0;
	bool can = false, found = false;
	FILE *f = fopen("/proc/cpuinfo", "re");
	while (f && !found && getline(&line, &size, f) > 0) {
		found = starts_with(line, "flags");
		line[strcspn(line, "\n")] = 0;
		struct list words = found ? list_split(t, line, ' ') : (struct list){ 0 };
		can = list_has(&words, "vmx") || list_has(&words, "svm");
	}
	if (f)
		fclose(f);
	free(line);
	return can;
}

#else

static int kvm_guest(void)
{
	return 1;
}

static bool cpu_can(struct task *t)
{
	(void)t;
	return false;
}

#endif

/* One that hangs inside the kernel may not even die: then it is left behind. */
static const char *outcome(pid_t pid, int ms)
{
	FD_SCOPE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	bool over = poll(&p, 1, ms) == 0;
	int status = 0;
	kill(pid, SIGKILL);
	if (poll(&p, 1, delay_ms(DELAY_KVM_KILLED)) == 0 || waitpid(pid, &status, 0) < 0)
		return "it hangs, and cannot be killed";
	if (over)
		return "it hangs";
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? NULL : "it fails";
}

bool accel_probe(struct task *t, int (*guest)(void), int ms)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(guest());
	}
	const char *wrong = pid < 0 ? "no process could be made for it" : outcome(pid, ms);
	if (wrong)
		log_line(t,
			 "kvm is not used reason=\"a guest of three instructions was tried: %s\"",
			 wrong);
	return !wrong;
}

static const char *choose(struct task *t)
{
	if (access("/dev/kvm", F_OK) < 0) {
		log_line(t, "kvm is not used reason=\"there is no /dev/kvm\"");
		return "tcg";
	}
	if (!cpu_can(t)) {
		log_line(t, "kvm is not used reason=\"the CPU has neither vmx nor svm\"");
		return "tcg";
	}
	return accel_probe(t, kvm_guest, delay_ms(DELAY_KVM_PROBE)) ? "kvm" : "tcg";
}

const char *vmm_accel(struct task *t, const char *wish)
{
	static const char *const names[] = { "kvm", "tcg" };
	for (size_t i = 0; i < COUNT(names); i++)
		if (streq(wish, names[i]))
			return names[i];
	if (!streq(wish, "auto"))
		return fail_ptr(t, INVALID_VALUE, "accel", wish);
	const char *chosen = choose(t);
	log_line(t, "accelerator chosen accel=%s", chosen);
	return chosen;
}
