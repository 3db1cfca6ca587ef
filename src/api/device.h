// SPDX-License-Identifier: Apache-2.0
/* device.h -- the records of drives and interfaces (classes VBD and VIF): one of VBD_metrics or VIF_metrics comes
 * and goes with each. */
#pragma once

#include "model/model.h"

struct task;

/* Gives older records theirs. */
int devices_open(struct task *);
/* In a transaction: what db_insert(), db_delete() and db_delete_all() do, and the same to the metrics. */
int device_insert(struct task *, struct row *device);
int device_delete(struct task *, const struct row *device);
int devices_delete(struct task *, const struct class *, const char *field, const char *value);
