// SPDX-License-Identifier: Apache-2.0
#include "api/console.h"

#include <pthread.h>

#include "api/guests.h"
#include "api/settings.h"
#include "base/task.h"
#include "db/db.h"

/* The VMs whose port is taken.  QEMU would let a second client wait without a word. */
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

void vm_serial_done(struct task *t, const char *ref)
{
	(void)t;
	pthread_mutex_lock(&taken.lock);
	list_remove(&taken.refs, ref);
	if (!taken.refs.n) {
		TALLOC_FREE(taken.memory);
		taken.refs = (struct list){ 0 };
	}
	pthread_mutex_unlock(&taken.lock);
}

int vm_serial(struct task *t, const char *ref, int *ret_fd)
{
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (!take(ref))
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VM", ref, "console", NULL_REF);
	void *hold = talloc_new(t);
	struct vmm *vmm = guest_need(t, hold, vm);
	int result = vmm ? settings.vmm->serial(t, vmm, ret_fd) : -1;
	talloc_free(hold);
	if (result < 0)
		vm_serial_done(t, ref);
	return result;
}
