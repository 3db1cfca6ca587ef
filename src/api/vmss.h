// SPDX-License-Identifier: Apache-2.0
/* vmss.h -- schedules of snapshots.  One is run when somebody asks (VMSS.snapshot_now); nothing runs them by
 * itself, and so none can be enabled.
 *
 * schedule (source: XenServer's, see its class VMSS): which keys there are follows from the frequency; what is
 * missing has a default, and others are dropped.
 *
 *     min    0, 15, 30, 45                  each
 *     hour   0 .. 23                        daily, weekly
 *     days   Monday,...,Sunday, with commas weekly */
#pragma once

#include "model/model.h"

struct task;

/* Checks of setters; they make the schedule what it is to be.  INVALID_VALUE ["schedule:min", value],
 * ["retained_snapshots", n]; VALUE_NOT_SUPPORTED ["enabled", ...]. */
int vmss_check(struct task *, struct VMSS_row *);
/* Its VMs can be taken as its type says. */
int vmss_check_type(struct task *, struct VMSS_row *);
/* The VM may have the schedule that its row names.  VM_IS_TEMPLATE. */
int vmss_check_member(struct task *, const struct VM_row *);
