// SPDX-License-Identifier: Apache-2.0
/* users.h -- whom the VMs' processes run as.
 *
 * Each VM has a user and a group of its own out of a range that nobody else on the host has, so that
 * one guest that takes over its QEMU reaches nothing of another: no file, no process, no signal. */
#pragma once

struct config;
struct task;

/* Decides settings.qemu_...; INVALID_VALUE when the configuration names no such user or range. */
int users_set(struct task *, const struct config *);
/* Snapshots of a running VM's memory need /dev/userfaultfd, which is root's alone: gives it the group
 * that all VMs have.  Logged when it cannot be. */
void users_share_userfaultfd(struct task *);
