// SPDX-License-Identifier: Apache-2.0
/* folder.h -- a VM's own folder, made right for a new process.
 *
 *     what lies there                whose         who made it                        at the next start
 *     pid, pid.new                   root's        process.h                          goes
 *     qmp.sock    oob.sock           root's        args.h, so that they listen        goes
 *     serial.sock agent.sock                       before QEMU is there
 *     qemu.log    qemu.log.old       root's        QEMU, by a descriptor; api/logs.h  stays
 *     serial.log  serial.log.old     root's        the same                           stays, and gets longer
 *     tpm/        pid, qemu.log      root's        tpm.h                              goes
 *     tpm/state/  tpm2-00.permall,   the VM's      swtpm                              goes
 *                 .lock, what was      user's
 *                 half written
 *     fake.json   fake.json.new      root's        fake.c                             goes
 *
 * Each start has a user of its own, so that what the VM's user left belongs to somebody else by
 * the next one, who may neither open nor remove it.  Nothing in the folder is needed without a
 * process but the logs: what a TPM remembers was taken into the VTPM's row by the transaction that
 * recorded the end of the process. */
#pragma once

struct task;

/* The folder is the daemon's own and closed to others, and holds nothing but logs, which are plain
 * files of ours, and `kept` (NULL: nothing).  No process may be at work in it any more. */
int folder_clear(struct task *, const char *dir, const char *kept);
