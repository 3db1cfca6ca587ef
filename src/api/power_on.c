// SPDX-License-Identifier: Apache-2.0
#include "api/power_on.h"

#include "api/call.h"
#include "api/jobs.h"
#include "api/settings.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"

/* A guest that ends soon after each start is not started at full speed for ever. */
static int start(struct task *t, const char *vm)
{
	return call(t, VM_start, (&(struct VM_start){ .vm = vm }));
}

static bool wants_restart(const struct VM_row *vm, const char *how)
{
	if (streq(how, "shutdown"))
		return vm->actions_after_shutdown == on_normal_exit_restart;
	switch (vm->actions_after_crash) {
	case on_crash_behaviour_restart:
	case on_crash_behaviour_coredump_and_restart:
	case on_crash_behaviour_rename_restart:
		return true;
	default:
		return false;
	}
}

void power_on_after_end(struct task *t, const char *ref, const char *how, int64_t ran_ms)
{
	struct VM_row *vm = db_seek(t, VM, ref);
	if (!vm || vm->current_operations.n || !wants_restart(vm, how))
		return;
	int delay = ran_ms < delay_ms(DELAY_RESTART_SOON) ? delay_ms(DELAY_RESTART_PAUSE) : 0;
	log_line(t, "guest will be started again vm=%s ended=%s delay_ms=%d", vm->uuid, how, delay);
	jobs_start("restart", start, ref, delay);
}

static bool has_flag(const struct map *other_config)
{
	const char *value = map_get(other_config, "auto_poweron");
	return value && streq(value, "true");
}

/* 1: the host has booted since the last time. */
static int note_boot(struct task *t)
{
	char *boot = file_read(t, "/proc/sys/kernel/random/boot_id", 100);
	if (!boot)
		return -1;
	boot[strcspn(boot, "\n")] = 0;
	DB_SCOPE(t);
	struct host_row *host = db_get(t, host, this_host());
	if (!host)
		return -1;
	if (streq(host->boot_id, boot))
		return 0;
	host->boot_id = boot;
	return db_put(t, &host->row) < 0 || db_commit(t) < 0 ? -1 : 1;
}

int power_on_after_boot(struct task *t)
{
	struct pool_row *pool = *(struct pool_row **)db_find(t, &class_pool, NULL, NULL);
	int booted = note_boot(t);
	if (booted <= 0 || !has_flag(&pool->other_config))
		return booted < 0 ? -1 : 0;
	DB_ALL (t, VM, vm)
		if (!vm->is_a_template && !vm->is_a_snapshot &&
		    vm->power_state == vm_power_state_Halted && has_flag(&vm->other_config))
			jobs_start("auto_poweron", start, vm->row.ref, 0);
	return 0;
}
