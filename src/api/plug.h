// SPDX-License-Identifier: Apache-2.0
/* plug.h -- drives and interfaces that come and go while the VM runs. */
#pragma once

#include "model/model.h"

struct task;

/* The VM is asked whether it has the device of the row (class VBD or VIF), and the row made to say
 * so; of one that has gone nothing stays open.  No error when the row or the VM's process is gone. */
int plug_settle(struct task *, const struct class *, const char *ref);
/* The same for all devices of a VM whose process was just adopted: nothing else uses it yet. */
void plug_settle_all(struct task *, const char *vm);
/* The VM let go of the device with this id. */
void plug_gone(struct task *, const char *vm, const char *device);
