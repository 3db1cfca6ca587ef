// SPDX-License-Identifier: Apache-2.0
#include "api/device.h"

#include "base/task.h"
#include "db/db.h"

static const struct kind_row {
	const struct class *device, *metrics;
} kinds[] = {
	{ &class_VBD, &class_VBD_metrics },
	{ &class_VIF, &class_VIF_metrics },
};

static const struct class *metrics_class(const struct class *device)
{
	return device == kinds[0].device ? kinds[0].metrics : kinds[1].metrics;
}

static int set(struct task *t, struct row *r, const char *field, const char *value)
{
	return field_parse(t, r, model_field(r->class, field), value);
}

/* One of its own, whatever it names: it may be a copy. */
static int add_metrics(struct task *t, struct row *device)
{
	struct row *m = model_new(t, metrics_class(device->class));
	if (set(t, m, "last_updated", time_now(t)) < 0 || set(t, device, "metrics", m->ref) < 0)
		return -1;
	return db_insert(t, m);
}

int device_insert(struct task *t, struct row *device)
{
	return add_metrics(t, device) < 0 ? -1 : db_insert(t, device);
}

int device_delete(struct task *t, const struct row *device)
{
	const char *ref = field_text(t, device, model_field(device->class, "metrics"));
	const struct row *m = db_seek_row(t, metrics_class(device->class), ref);
	return m && db_delete(t, m) < 0 ? -1 : db_delete(t, device);
}

int devices_delete(struct task *t, const struct class *c, const char *field, const char *value)
{
	for (struct row **r = db_find(t, c, field, value); *r; r++)
		if (device_delete(t, *r) < 0)
			return -1;
	return 0;
}

int devices_open(struct task *t)
{
	DB_SCOPE(t);
	for (size_t i = 0; i < COUNT(kinds); i++)
		for (struct row **r = db_find(t, kinds[i].device, "metrics", NULL_REF); *r; r++)
			if (add_metrics(t, *r) < 0 || db_put(t, *r) < 0)
				return -1;
	return db_commit(t);
}
