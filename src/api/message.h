// SPDX-License-Identifier: Apache-2.0
/* message.h -- what operators should read: class message. */
#pragma once

#include "model/model.h"

struct task;

#define VM_RESUMED "VM_RESUMED"
#define VM_SNAPSHOT_REVERTED "VM_SNAPSHOT_REVERTED"

/* XenAPI's priorities, of which 1 is the worst. */
enum { MESSAGE_WARNING = 3, MESSAGE_INFORMATION = 5 };

/* May be called in a transaction. */
int message_tell(struct task *, const char *name, int64_t priority, enum cls, const char *obj_uuid,
		 const char *body);

/* The oldest go when there are too many: a few hundred each time. */
int messages_collect(struct task *);
