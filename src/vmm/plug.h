// SPDX-License-Identifier: Apache-2.0
/* plug.h -- devices that come and go while the guest runs.  As in struct vmm_driver. */
#pragma once

#include <stdbool.h>

struct qmp;
struct task;
struct vmm_disk;
struct vmm_nic;

int plug_disk(struct task *, struct qmp *, const struct vmm_disk *);
int plug_nic(struct task *, struct qmp *, const struct vmm_nic *);
int unplug_disk(struct task *, struct qmp *, const struct vmm_disk *);
int unplug_nic(struct task *, struct qmp *, const char *id);
int plug_present(struct task *, struct qmp *, const char *id, bool *ret);
int plug_insert(struct task *, struct qmp *, const struct vmm_disk *);
int plug_eject(struct task *, struct qmp *, const struct vmm_disk *);
