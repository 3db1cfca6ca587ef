// SPDX-License-Identifier: Apache-2.0
/* plug.c -- a device needs the guest's consent to leave: QEMU asks, the guest answers when it likes,
 * or never.  So nothing a device is made of is closed before QEMU has none of it any more. */
#include "vmm/plug.h"

#include "base/delay.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/devices.h"
#include "vmm/disks.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

/* ---- devices ---- */

int plug_present(struct task *t, struct qmp *q, const char *id, bool *ret)
{
	struct task *try = task_new(t, t->name);
	struct qmp_call c = {
		.command = "qom-get",
		.arguments = json_pack("{s:s, s:s}", "path", str(t, "/machine/peripheral/%s", id),
				       "property", "type"),
		.query = true,
	};
	int result = qmp_call(try, q, &c);
	if (result < 0 && !(c.ret_class && streq(c.ret_class, "DeviceNotFound")))
		return task_fail_params(t, try->code, try->params);
	*ret = result == 0;
	return 0;
}

static int add(struct task *t, struct qmp *q, const char *command, json_t *arguments)
{
	return arguments ? qmp_do(t, q, command, json_incref(arguments)) : -1;
}

/* Asks the guest, and waits until it has let go.  That it was asked before is no error. */
static int detach(struct task *t, struct qmp *q, const char *type, const char *id)
{
	bool present;
	if (plug_present(t, q, id, &present) < 0)
		return -1;
	if (!present)
		return 0;
	struct task *try = task_new(t, t->name);
	struct qmp_call c = { .command = "device_del", .arguments = json_pack("{s:s}", "id", id) };
	if (qmp_call(try, q, &c) < 0 &&
	    !(c.ret_desc && strstr(c.ret_desc, "already in the process")))
		return task_fail_params(t, try->code, try->params);
	for (int64_t end = clock_ms() + delay_ms(DELAY_DETACH); clock_ms() < end;) {
		if (plug_present(t, q, id, &present) < 0)
			return -1;
		if (!present)
			return 0;
		if (task_wait(t, -1, 0, delay_ms(DELAY_DETACH_LOOK)) < 0)
			return -1;
	}
	return fail(t, DEVICE_DETACH_TIMEOUT, type, id);
}

/* ---- disks ---- */

int plug_disk(struct task *t, struct qmp *q, const struct vmm_disk *d)
{
	if (device_check_disk(t, d) < 0)
		return -1;
	if (d->cd || d->model == VMM_SATA)
		return fail(t, OPERATION_NOT_ALLOWED,
			    "a SATA bus takes no drives while the VM runs; it is there at the next "
			    "start");
	if (disks_open(t, q, d->layers, d->read_only) < 0)
		return -1;
	if (add(t, q, "device_add", device_disk(t, d)) == 0)
		return 0;
	disks_close(task_new(t, t->name), q, d->layers);
	return -1;
}

/* A device that is gone from QEMU's tree may use its disk for a moment yet, for it is freed by another thread; and
 * nobody else uses the top. */
static int close_disk(struct task *t, struct qmp *q, const struct vmm_disk *d)
{
	const char *top = disks_top_node(t, d->layers);
	for (int64_t end = clock_ms() + delay_ms(DELAY_DISK_FREED); *top && clock_ms() < end;) {
		if (disks_forget(task_part(t), q, top) == 0)
			break;
		if (task_wait(t, -1, 0, delay_ms(DELAY_DISK_FREED_LOOK)) < 0)
			return -1;
	}
	return disks_close(t, q, d->layers);
}

int unplug_disk(struct task *t, struct qmp *q, const struct vmm_disk *d)
{
	bool present;
	if (plug_present(t, q, d->id, &present) < 0)
		return -1;
	if (present && (d->cd || d->model == VMM_SATA))
		return fail(t, OPERATION_NOT_ALLOWED,
			    "a SATA bus lets no drives go while the VM runs; shut it down first");
	if (detach(t, q, "VBD", d->id) < 0)
		return -1;
	return close_disk(t, q, d);
}

/* ---- network interfaces ---- */

static int netdev_add(struct task *t, struct qmp *q, const struct vmm_nic *n)
{
	const char *name = str(t, "tap-%s", n->id);
	if (n->tap < 0)
		return add(t, q, "netdev_add", device_netdev(t, n, NULL));
	struct qmp_call c = { .command = "getfd",
			      .arguments = json_pack("{s:s}", "fdname", name),
			      .fd = n->tap };
	if (qmp_call(t, q, &c) < 0)
		return -1;
	return add(t, q, "netdev_add", device_netdev(t, n, name));
}

/* One that is not there is no error. */
static int netdev_del(struct task *t, struct qmp *q, const char *nic)
{
	struct task *try = task_new(t, t->name);
	struct qmp_call c = { .command = "netdev_del",
			      .arguments = json_pack("{s:s}", "id", device_netdev_id(t, nic)) };
	if (qmp_call(try, q, &c) == 0 || (c.ret_class && streq(c.ret_class, "DeviceNotFound")))
		return 0;
	return task_fail_params(t, try->code, try->params);
}

int plug_nic(struct task *t, struct qmp *q, const struct vmm_nic *n)
{
	if (n->position >= VMM_NICS)
		return fail(t, INVALID_DEVICE, str(t, "%u", n->position));
	if (netdev_add(t, q, n) < 0)
		return -1;
	if (add(t, q, "device_add", device_nic(t, n)) == 0)
		return 0;
	netdev_del(task_new(t, t->name), q, n->id);
	return -1;
}

int unplug_nic(struct task *t, struct qmp *q, const char *id)
{
	if (detach(t, q, "VIF", id) < 0)
		return -1;
	return netdev_del(t, q, id);
}

/* ---- discs ---- */

static int on_drive(struct task *t, struct qmp *q, const char *command, const char *id)
{
	return qmp_do(t, q, command, json_pack("{s:s}", "id", id));
}

static int tray_is_open(struct task *t, struct qmp *q, const char *id, bool *ret)
{
	struct qmp_call c = { .command = "query-block", .query = true };
	const json_t *drive;
	size_t i;
	if (qmp_call(t, q, &c) < 0)
		return -1;
	*ret = false;
	json_array_foreach (c.ret, i, drive) {
		const char *device = json_string_value(json_object_get(drive, "qdev"));
		if (device && streq(device, id))
			*ret = json_is_true(json_object_get(drive, "tray_open"));
	}
	return 0;
}

/* A guest that has mounted the disc locks the tray.  QEMU passes the wish on to it then and calls that
 * success: only a look tells.  It is wished for again, since a guest that has unlocked the tray need not
 * open it. */
static int open_tray(struct task *t, struct qmp *q, const char *id)
{
	for (int64_t end = clock_ms() + delay_ms(DELAY_TRAY);;) {
		bool open;
		if (on_drive(t, q, "blockdev-open-tray", id) < 0 ||
		    tray_is_open(t, q, id, &open) < 0)
			return -1;
		if (open)
			return 0;
		if (clock_ms() > end)
			return fail(t, VBD_TRAY_LOCKED, id);
		if (task_wait(t, -1, 0, delay_ms(DELAY_DETACH_LOOK)) < 0)
			return -1;
	}
}

int plug_insert(struct task *t, struct qmp *q, const struct vmm_disk *d)
{
	const char *node = disks_node(t, d), *now;
	if (!node || disks_top(t, q, d->id, &now) < 0)
		return -1;
	if (streq(now, node))
		return on_drive(t, q, "blockdev-close-tray", d->id);
	if (disks_open(t, q, d->layers, true) < 0)
		return -1;
	if (open_tray(t, q, d->id) == 0 &&
	    qmp_do(t, q, "blockdev-insert-medium",
		   json_pack("{s:s, s:s}", "id", d->id, "node-name", node)) == 0 &&
	    on_drive(t, q, "blockdev-close-tray", d->id) == 0)
		return 0;
	disks_close(task_new(t, t->name), q, d->layers);
	return -1;
}

int plug_eject(struct task *t, struct qmp *q, const struct vmm_disk *d)
{
	if (open_tray(t, q, d->id) < 0 || on_drive(t, q, "blockdev-remove-medium", d->id) < 0 ||
	    on_drive(t, q, "blockdev-close-tray", d->id) < 0)
		return -1;
	return disks_close(t, q, d->layers);
}
