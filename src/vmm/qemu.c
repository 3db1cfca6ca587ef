// SPDX-License-Identifier: Apache-2.0
/* qemu.c -- VMs as QEMU processes, one each, that outlive the daemon.
 *
 *     args     opens files and sockets, writes the command line
 *     process  starts it without rights, notes its pid, finds it again
 *     qmp      talks to it
 *     devices  what the guest finds where
 *     cpu      what a guest has, and gets again (probe: whether it can be had)
 *     disks    layers, and the instant in which all disks switch
 *     save     memory and disks at one instant, and back (pages: large ones again before it)
 *     merge    layers that become one, while the guest runs (pace: as slowly as it needs)
 *     plug     devices that come and go
 *     tpm      the process beside it
 *     check    whether a start would find what it needs
 *     folder   the VM's folder, made right for a new process
 *
 * In the VM's folder: pid, qmp.sock, oob.sock (the monitor once more), serial.sock, agent.sock, qemu.log (what QEMU complained since its
 * start), serial.log (what the guest wrote to its first serial port). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/io.h"
#include "base/delay.h"
#include "base/json.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/cgroup.h"
#include "vmm/check.h"
#include "vmm/cpu.h"
#include "vmm/disks.h"
#include "vmm/folder.h"
#include "vmm/merge.h"
#include "vmm/plug.h"
#include "vmm/probe.h"
#include "vmm/process.h"
#include "vmm/qmp.h"
#include "vmm/save.h"
#include "vmm/tpm.h"
#include "vmm/vmm.h"

struct vmm {
	char *dir;
	struct process process;
	struct qmp *qmp;
	struct vmm_listener listener;
	struct saving saving;
	_Atomic int merges; /* at work */

	/* The reader thread's own. */
	bool stopped;      /* the guest stands still */
	bool stop_is_told; /* ... or will, for a reason that the listener knows */
	const char *end;   /* why QEMU says it ends */

	pthread_mutex_t lock; /* guards what follows, for moments only */
	bool live;            /* start or adopt succeeded: the listener wants to hear */
	bool gone;            /* the process has ended */
};

/* ---- events ---- */

/* What was made for the process goes after it.  The VM's folder is named after it. */
static void clear_up(const char *dir)
{
	const char *slash = strrchr(dir, '/');
	tpm_end(dir);
	cgroup_remove(slash ? slash + 1 : dir);
}

static bool is_live(struct vmm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool live = vm->live;
	pthread_mutex_unlock(&vm->lock);
	return live;
}

static void tell(struct vmm *vm, enum vmm_event event, const char *detail)
{
	if (is_live(vm))
		vm->listener.event(vm->listener.arg, event, detail);
}

static const char *text_in(const json_t *data, const char *key)
{
	const char *s = json_string_value(json_object_get(data, key));
	return s ? s : "";
}

static void on_stop(struct vmm *vm, const json_t *data)
{
	(void)data;
	bool told = vm->stop_is_told;
	vm->stopped = true;
	vm->stop_is_told = false;
	if (!told)
		tell(vm, VMM_STOPPED, "");
}

static void on_resume(struct vmm *vm, const json_t *data)
{
	(void)data;
	vm->stopped = vm->stop_is_told = false;
	tell(vm, VMM_RESUMED, "");
}

static void on_reset(struct vmm *vm, const json_t *data)
{
	if (json_is_true(json_object_get(data, "guest")))
		tell(vm, VMM_REBOOTED, "");
}

static void on_shutdown(struct vmm *vm, const json_t *data)
{
	static const struct {
		const char *reason, *end;
	} ends[] = {
		{ "guest-shutdown", "shutdown" },
		{ "guest-panic", "crash" },
	};
	for (size_t i = 0; i < COUNT(ends); i++)
		if (streq(text_in(data, "reason"), ends[i].reason))
			vm->end = ends[i].end;
}

static void on_panic(struct vmm *vm, const json_t *data)
{
	(void)data;
	tell(vm, VMM_CRASHED, "");
}

/* QEMU says this, then STOP: the first says all.  While the guest stands still already, requests
 * under way fail without a STOP of their own. */
static void on_io_error(struct vmm *vm, const json_t *data)
{
	char disk[64] = ""; /* of "/machine/peripheral/<disk>/virtio-backend" */
	sscanf(text_in(data, "qom-path"), "/machine/peripheral/%63[^/]", disk);
	bool full = json_is_true(json_object_get(data, "nospace"));
	if (streq(text_in(data, "action"), "stop") && !vm->stopped)
		vm->stop_is_told = true;
	tell(vm, full ? VMM_NOSPACE : VMM_IOERROR, disk);
}

static void on_unplugged(struct vmm *vm, const json_t *data)
{
	const char *id = text_in(data, "device");
	if (*id)
		tell(vm, VMM_UNPLUGGED, id);
}

static void on_port(struct vmm *vm, const json_t *data)
{
	if (streq(text_in(data, "id"), "agent"))
		tell(vm, VMM_AGENT, json_is_true(json_object_get(data, "open")) ? "open" : "");
}

static void on_migration(struct vmm *vm, const json_t *data)
{
	save_on_event(&vm->saving, data);
}

static void on_event(void *arg, const char *name, const json_t *data)
{
	static const struct {
		const char *name;
		void (*on)(struct vmm *, const json_t *data);
	} events[] = {
		{ "STOP", on_stop },
		{ "RESUME", on_resume },
		{ "RESET", on_reset },
		{ "SHUTDOWN", on_shutdown },
		{ "GUEST_PANICKED", on_panic },
		{ "BLOCK_IO_ERROR", on_io_error },
		{ "DEVICE_DELETED", on_unplugged },
		{ "VSERPORT_CHANGE", on_port },
		{ "MIGRATION", on_migration },
	};
	for (size_t i = 0; i < COUNT(events); i++)
		if (streq(name, events[i].name))
			events[i].on(arg, data);
}

/* A monitor can end before its process does, or without it. */
static void on_ended(void *arg, int closing)
{
	struct vmm *vm = arg;
	struct pollfd p[2] = {
		{ .fd = vm->process.pidfd, .events = POLLIN },
		{ .fd = closing, .events = POLLIN },
	};
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (p[1].revents)
		return;
	pthread_mutex_lock(&vm->lock);
	vm->gone = true;
	pthread_mutex_unlock(&vm->lock);
	clear_up(vm->dir);
	tell(vm, VMM_EXITED, vm->end);
}

/* ---- life and death ---- */

static struct vmm *vmm_new(struct task *t, const char *dir, struct vmm_listener l)
{
	struct vmm *vm = calloc(1, sizeof *vm);
	char *copy = strdup(dir);
	if (!vm || !copy) {
		free(vm);
		free(copy);
		return fail_ptr(t, INTERNAL_ERROR, "out of memory");
	}
	*vm = (struct vmm){ .dir = copy, .listener = l, .end = "", .process.pidfd = -1 };
	pthread_mutex_init(&vm->lock, NULL);
	return vm;
}

static void release(struct vmm *vm)
{
	if (vm->qmp)
		qmp_close(vm->qmp);
	save_forget(&vm->saving);
	fd_close(&vm->process.pidfd);
	pthread_mutex_destroy(&vm->lock);
	free(vm->dir);
	free(vm);
}

static int greet(struct task *t, struct vmm *vm, int ms)
{
	struct qmp_handler h = { on_event, on_ended, vm, vm->listener.vm };
	int fd = unix_connect(t, str(t, "%s/qmp.sock", vm->dir));
	vm->qmp = fd < 0 ? NULL : qmp_open(t, fd, ms, false, h);
	return vm->qmp ? 0 : -1;
}

/* From now on the listener hears.  -1: the process has ended before. */
static int go_live(struct task *t, struct vmm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->live = !vm->gone;
	pthread_mutex_unlock(&vm->lock);
	return vm->live ? 0 : fail(t, VM_HALTED, vm->listener.vm);
}

static int launch(struct task *t, struct vmm *vm, const struct vmm_config *c)
{
	struct args *a = args_vm(t, c);
	if (!a)
		return -1;
	struct process_plan plan = { .dir = c->dir,
				     .argv = a->argv,
				     .nfds = a->nfds,
				     .fds = a->fds,
				     .uid = c->uid,
				     .gid = c->gid,
				     .common = c->common,
				     .uuid = c->uuid,
				     .memory = c->memory };
	int result = process_start(t, &plan, &vm->process);
	/* Our copies go: a connection to a QEMU that is dead shall end, not wait. */
	talloc_free(a);
	return result;
}

static int bring_up(struct task *t, struct vmm *vm, const struct vmm_config *c)
{
	vm->stopped = true;
	if (greet(t, vm, delay_ms(DELAY_QEMU_START)) < 0)
		return -1;
	if (c->image >= 0 && save_load(t, vm->qmp, args_image(t), c->image_at, c->memory) < 0)
		return -1;
	if (disks_settle(t, vm->qmp) < 0)
		return -1;
	if (!c->paused && qmp_do(t, vm->qmp, "cont", NULL) < 0)
		return -1;
	return go_live(t, vm);
}

/* QEMU's own words tell more than that it has ended. */
static int start_failed(struct task *t, struct vmm *vm)
{
	const char *error = task_error(t);
	enum code code = t->code;
	process_kill(task_new(t, t->name), &vm->process);
	const char *said = process_complaint(t, vm->dir);
	if ((code != INTERNAL_ERROR && code != VM_HALTED) || !*said)
		return -1;
	task_forgive(t);
	return fail(t, INTERNAL_ERROR, str(t, "QEMU did not start: %s (%s)", said, error));
}

static struct vmm *start(struct task *t, const struct vmm_config *c, struct vmm_listener l)
{
	struct vmm *vm = vmm_new(t, c->dir, l);
	if (!vm)
		return NULL;
	int result = launch(t, vm, c);
	if (result == 0 && bring_up(t, vm, c) < 0)
		result = start_failed(t, vm);
	if (result == 0) {
		log_line(t, "vm started vm=%s pid=%d", c->uuid, (int)vm->process.pid);
		return vm;
	}
	clear_up(c->dir);
	release(vm);
	return NULL;
}

static enum vmm_status status_of(const char *word)
{
	static const struct {
		const char *word;
		enum vmm_status status;
	} words[] = {
		{ "running", VMM_RUNNING },     { "io-error", VMM_IO_ERROR },
		{ "guest-panicked", VMM_DEAD }, { "internal-error", VMM_DEAD },
		{ "shutdown", VMM_DEAD },
	};
	for (size_t i = 0; i < COUNT(words); i++)
		if (streq(word, words[i].word))
			return words[i].status;
	return VMM_PAUSED;
}

static int status(struct task *t, struct vmm *vm, enum vmm_status *ret)
{
	struct qmp_call c = { .command = "query-status", .query = true };
	if (qmp_call(t, vm->qmp, &c) < 0)
		return -1;
	*ret = status_of(text_in(c.ret, "status"));
	return 0;
}

/* The settling again: the daemon may have ended in the middle of a start. */
static int meet_again(struct task *t, struct vmm *vm)
{
	enum vmm_status s;
	if (greet(t, vm, delay_ms(DELAY_QEMU_ADOPT)) < 0 ||
	    save_settle(t, vm->qmp, &vm->saving) < 0 || disks_settle(t, vm->qmp) < 0 ||
	    status(t, vm, &s) < 0)
		return -1;
	return go_live(t, vm);
}

static struct vmm *adopt(struct task *t, const char *uuid, const char *dir, struct vmm_listener l)
{
	struct process found;
	int there = process_find(t, dir, args_mark(t, uuid), &found);
	if (there <= 0) {
		if (there == 0)
			clear_up(dir); /* it may have ended while nobody looked */
		return NULL;
	}
	struct vmm *vm = vmm_new(t, dir, l);
	if (!vm) {
		fd_close(&found.pidfd);
		return NULL;
	}
	vm->process = found;
	if (meet_again(t, vm) == 0) {
		log_line(t, "vm adopted vm=%s pid=%d", uuid, (int)found.pid);
		return vm;
	}
	if (process_gone(&vm->process, 0))
		task_forgive(t);
	release(vm);
	return NULL;
}

/* A guest takes a variable of UEFI for kept once it is set, and has no way to flush it: QEMU may have written the
 * data, and not yet where they are. */
static void flush_variables(struct task *t, struct vmm *vm)
{
	struct task *try = task_new(t, t->name);
	struct qmp_call c = { .command = "human-monitor-command",
			      .ms = delay_ms(DELAY_QEMU_FLUSH) };
	c.arguments = json_pack("{s:s}", "command-line", "qemu-io -d /machine/system.flash1 flush");
	if (qmp_call(try, vm->qmp, &c) < 0)
		log_line(t, "variables not flushed error=\"%s\"", task_error(try));
}

static int stop(struct task *t, struct vmm *vm)
{
	flush_variables(t, vm);
	if (process_kill(t, &vm->process) < 0)
		return -1;
	clear_up(vm->dir);
	return 0;
}

static int do_kill(struct task *t, const char *uuid, const char *dir)
{
	struct process found;
	int there = process_find(t, dir, args_mark(t, uuid), &found);
	int result = there > 0 ? process_kill(t, &found) : there;
	if (there > 0)
		fd_close(&found.pidfd);
	clear_up(dir);
	return result;
}

/* ---- before a start ---- */

static int clear(struct task *t, const char *uuid, const char *dir)
{
	return do_kill(t, uuid, dir) < 0 ? -1 : folder_clear(t, dir, NULL);
}

/* ---- commands ---- */

static int do_pause(struct task *t, struct vmm *vm)
{
	return qmp_do(t, vm->qmp, "stop", NULL);
}

static int resume(struct task *t, struct vmm *vm)
{
	return qmp_do(t, vm->qmp, "cont", NULL);
}

static int do_shutdown(struct task *t, struct vmm *vm)
{
	return qmp_do(t, vm->qmp, "system_powerdown", NULL);
}

static int reset(struct task *t, struct vmm *vm)
{
	return qmp_do(t, vm->qmp, "system_reset", NULL);
}

static int prepare(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s)
{
	return disks_prepare(t, vm->qmp, n, s);
}

static int switch_disks(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s,
			double *ret_pause_ms)
{
	return disks_switch(t, vm->qmp, n, s, ret_pause_ms);
}

static void tidy(struct task *t, struct vmm *vm, size_t n, const struct vmm_switch *s)
{
	disks_tidy(t, vm->qmp, n, s);
}

static int rehearse(struct task *t, struct vmm *vm, struct vmm_save *v)
{
	if (cpu_ask(t, vm->qmp, &v->cpu) < 0)
		return -1;
	return save_rehearse(t, vm->qmp, &vm->saving, &vm->process, str(t, "%s/oob.sock", vm->dir),
			     v);
}

static int save(struct task *t, struct vmm *vm, struct vmm_save *v)
{
	assert(!atomic_load(&vm->merges));
	if (!v->rehearsed && rehearse(t, vm, v) < 0)
		return -1;
	return save_begin(t, vm->qmp, &vm->saving, &vm->process, str(t, "%s/oob.sock", vm->dir), v);
}

static int do_save_end(struct task *t, struct vmm *vm, bool cancel)
{
	return save_end(t, vm->qmp, &vm->saving, cancel);
}

/* As after a migration: switches learn where it is by what comes from there. */
static int announce(struct task *t, struct vmm *vm)
{
	return qmp_do(t, vm->qmp, "announce-self",
		      json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5,
				"step", 100));
}

static int resize(struct task *t, struct vmm *vm, const json_t *layers, uint64_t size)
{
	return disks_resize(t, vm->qmp, layers, size);
}

static int settle(struct task *t, struct vmm *vm, const char *node)
{
	return disks_take_back_one(t, vm->qmp, node);
}

static int forget(struct task *t, struct vmm *vm, const char *node)
{
	return disks_forget(t, vm->qmp, node);
}

static int top(struct task *t, struct vmm *vm, const char *disk, const char **ret_node)
{
	return disks_top(t, vm->qmp, disk, ret_node);
}

static int merge(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	atomic_fetch_add(&vm->merges, 1);
	int result = merge_run(t, vm->qmp, m);
	atomic_fetch_sub(&vm->merges, 1);
	return result;
}

static int do_merge_state(struct task *t, struct vmm *vm, const struct vmm_merge *m, bool recorded,
			  enum vmm_merge_state *ret)
{
	return merge_state(t, vm->qmp, m, recorded, ret);
}

static int do_merge_close(struct task *t, struct vmm *vm, const struct vmm_merge *m)
{
	return merge_close(t, vm->qmp, m);
}

static int do_plug_disk(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return plug_disk(t, vm->qmp, d);
}

static int do_plug_nic(struct task *t, struct vmm *vm, const struct vmm_nic *n)
{
	return plug_nic(t, vm->qmp, n);
}

static int do_unplug_disk(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return unplug_disk(t, vm->qmp, d);
}

static int do_unplug_nic(struct task *t, struct vmm *vm, const char *id)
{
	return unplug_nic(t, vm->qmp, id);
}

static int present(struct task *t, struct vmm *vm, const char *id, bool *ret)
{
	return plug_present(t, vm->qmp, id, ret);
}

static int insert(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return plug_insert(t, vm->qmp, d);
}

static int eject(struct task *t, struct vmm *vm, const struct vmm_disk *d)
{
	return plug_eject(t, vm->qmp, d);
}

/* ---- doors ---- */

static int port(struct task *t, struct vmm *vm, const char *name, int *ret_fd)
{
	int fd = unix_connect(t, str(t, "%s/%s.sock", vm->dir, name));
	if (fd < 0)
		return -1;
	*ret_fd = fd;
	return 0;
}

static int serial(struct task *t, struct vmm *vm, int *ret_fd)
{
	return port(t, vm, "serial", ret_fd);
}

static int agent(struct task *t, struct vmm *vm, int *ret_fd)
{
	return port(t, vm, "agent", ret_fd);
}

/* QEMU's VNC server listens nowhere: it gets one end of a pair of sockets. */
static int vnc(struct task *t, struct vmm *vm, int *ret_fd)
{
	const char *name = str(t, "vnc-%s", random_hex(t, 8));
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return task_fail_errno(t, errno, "socketpair");
	FD_SCOPE int theirs = pair[1];
	FD_SCOPE int ours = pair[0];
	struct qmp_call c = { .command = "getfd",
			      .arguments = json_pack("{s:s}", "fdname", name),
			      .fd = theirs };
	if (qmp_call(t, vm->qmp, &c) < 0 || qmp_do(t, vm->qmp, "add_client",
						   json_pack("{s:s, s:s, s:b}", "protocol", "vnc",
							     "fdname", name, "skipauth", true)) < 0)
		return -1;
	*ret_fd = ours;
	ours = -1;
	return 0;
}

/* In a set QEMU looks for a descriptor that is open for just what it wants to do. */
static int screenshot(struct task *t, struct vmm *vm, int file)
{
	FD_SCOPE int out = open(str(t, "/proc/self/fd/%d", file), O_WRONLY | O_CLOEXEC);
	if (out < 0)
		return task_fail_errno(t, errno, "screen");
	struct qmp_call add = { .command = "add-fd", .fd = out };
	if (qmp_call(t, vm->qmp, &add) < 0)
		return -1;
	json_int_t set = json_integer_value(json_object_get(add.ret, "fdset-id"));
	struct task *after = task_new(t, t->name);
	int result = qmp_do(t, vm->qmp, "screendump",
			    json_pack("{s:s, s:s}", "filename",
				      str(t, "/dev/fdset/%lld", (long long)set), "format", "ppm"));
	qmp_do(after, vm->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", set));
	return result;
}

const struct vmm_driver vmm_qemu = {
	.name = "qemu",
	.clear = clear,
	.check = check_start,
	.start = start,
	.adopt = adopt,
	.status = status,
	.pause = do_pause,
	.resume = resume,
	.shutdown = do_shutdown,
	.reset = reset,
	.stop = stop,
	.prepare = prepare,
	.switch_disks = switch_disks,
	.tidy = tidy,
	.rehearse = rehearse,
	.save = save,
	.save_end = do_save_end,
	.announce = announce,
	.knows_machine = probe_knows_machine,
	.missing_features = probe_missing_features,
	.resize = resize,
	.settle = settle,
	.forget = forget,
	.top = top,
	.merge = merge,
	.merge_state = do_merge_state,
	.merge_close = do_merge_close,
	.plug_disk = do_plug_disk,
	.plug_nic = do_plug_nic,
	.unplug_disk = do_unplug_disk,
	.unplug_nic = do_unplug_nic,
	.present = present,
	.insert = insert,
	.eject = eject,
	.serial = serial,
	.vnc = vnc,
	.screenshot = screenshot,
	.agent = agent,
	.kill = do_kill,
	.release = release,
	.taps = true,
};
