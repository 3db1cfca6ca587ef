// SPDX-License-Identifier: Apache-2.0
#include "api/console.h"

#include <pthread.h>
#include <unistd.h>

#include "api/guests.h"
#include "api/host_facts.h"
#include "api/operation.h"
#include "api/settings.h"
#include "base/task.h"
#include "db/db.h"

/* ---- rows ---- */

static struct console_row *find(struct task *t, const char *vm, enum console_protocol protocol)
{
	DB_EACH (t, console, c, "VM", vm)
		if (c->protocol == protocol)
			return c;
	return NULL;
}

static const char *url(struct task *t, const struct console_row *c)
{
	const struct host_row *host = db_get(t, host, this_host());
	return host ? str(t, "%s/console?uuid=%s", host_url(t, host->address), c->uuid) : NULL;
}

static int make(struct task *t, const struct VM_row *vm, enum console_protocol protocol)
{
	if (find(t, vm->row.ref, protocol))
		return 0;
	struct console_row *c = row_new(t, console);
	c->VM = vm->row.ref;
	c->protocol = protocol;
	c->location = url(t, c);
	return c->location ? db_insert(t, &c->row) : -1;
}

int consoles_relocate(struct task *t)
{
	DB_ALL (t, console, c) {
		const char *location = url(t, c);
		if (location && streq(location, c->location))
			continue;
		c->location = location;
		if (!location || db_put(t, &c->row) < 0)
			return -1;
	}
	return 0;
}

int consoles_make(struct task *t, const struct VM_row *vm)
{
	if (make(t, vm, console_protocol_rfb) < 0)
		return -1;
	return make(t, vm, console_protocol_vt100);
}

struct console_row *vm_console(struct task *t, const struct VM_row *vm,
			       enum console_protocol protocol)
{
	struct console_row *c = find(t, vm->row.ref, protocol);
	if (!c)
		bad_power_state(t, vm, "running, paused");
	return c;
}

static struct row *first(struct task *t, const struct class *class, const char *uuid)
{
	return *db_find(t, class, "uuid", uuid);
}

struct console_row *console_named(struct task *t, const char *uuid, const char *ref)
{
	if (!uuid && !ref)
		return fail_ptr(t, INVALID_VALUE, "uuid", "");
	struct row *c = ref ? db_seek_row(t, &class_console, ref) : first(t, &class_console, uuid);
	if (c)
		return (struct console_row *)c;
	struct row *vm = ref ? db_seek_row(t, &class_VM, ref) : first(t, &class_VM, uuid);
	if (vm)
		return vm_console(t, (struct VM_row *)vm, console_protocol_rfb);
	return ref ? fail_ptr(t, HANDLE_INVALID, "console", ref)
		   : fail_ptr(t, UUID_INVALID, "console", uuid);
}

/* ---- one at a time ---- */

/* The VMs whose serial port is taken.  QEMU would let a second client wait without a word. */
static struct {
	pthread_mutex_t lock;
	void *memory;
	struct list refs;
} taken = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool take(const char *ref)
{
	pthread_mutex_lock(&taken.lock);
	bool is_free = !list_has(&taken.refs, ref);
	if (!taken.memory)
		taken.memory = talloc_new(NULL);
	if (is_free)
		list_add(taken.memory, &taken.refs, ref);
	pthread_mutex_unlock(&taken.lock);
	return is_free;
}

static void give_back(const char *ref)
{
	pthread_mutex_lock(&taken.lock);
	list_remove(&taken.refs, ref);
	if (!taken.refs.n) {
		TALLOC_FREE(taken.memory);
		taken.refs = (struct list){ 0 };
	}
	pthread_mutex_unlock(&taken.lock);
}

/* ---- what is behind them ---- */

static int picture(struct task *t, struct vmm *vmm, int *file)
{
	return settings.vmm->screenshot(t, vmm, *file);
}

int console_enter(struct task *t, const struct console_row *c, int *ret_fd)
{
	if (c->protocol == console_protocol_rfb)
		return guest_connect(t, c->VM, settings.vmm->vnc, ret_fd);
	if (!take(c->VM))
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", c->VM, "console", NULL_REF);
	if (guest_connect(t, c->VM, settings.vmm->serial, ret_fd) == 0)
		return 0;
	give_back(c->VM);
	return -1;
}

void console_leave(struct task *t, const struct console_row *c, int fd)
{
	(void)t;
	close(fd);
	if (c->protocol == console_protocol_vt100)
		give_back(c->VM);
}

int console_picture(struct task *t, const struct console_row *c, int file)
{
	return guest_connect(t, c->VM, picture, &file);
}
