// SPDX-License-Identifier: Apache-2.0
#include "vmm/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/io.h"
#include "base/list.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

/* QEMU's own memory, block jobs and screens included, stays far below; its threads, too. */
#define OWN_MEMORY (UINT64_C(2) << 30)
enum { PIDS = 2048 };

static char *root; /* the daemon's group as a folder, NULL: there is none */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- finding and preparing it ---- */

/* Field 5 of the line "... - cgroup2 ..." in mountinfo. */
static const char *find_mount(struct task *t)
{
	char *text = file_read(t, "/proc/self/mountinfo", 1 << 20);
	struct list lines = list_split(t, text ? text : "", '\n');
	for (size_t i = 0; i < lines.n; i++) {
		struct list words = list_split(t, lines.v[i], ' ');
		if (words.n > 5 && strstr(lines.v[i], " - cgroup2 "))
			return words.v[4];
	}
	return NULL;
}

/* Behind "0::". */
static const char *own_group(struct task *t)
{
	char *text = file_read(t, "/proc/self/cgroup", 65536);
	struct list lines = list_split(t, text ? text : "", '\n');
	for (size_t i = 0; i < lines.n; i++)
		if (starts_with(lines.v[i], "0::/"))
			return lines.v[i] + 3;
	return NULL;
}

static int put(const char *group, const char *file, const char *text)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", group, file);
	FD_SCOPE int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
}

/* systemd marks what it leaves to a service; any other group is not ours to divide. */
static bool is_delegated(const char *group)
{
	static const char *const marks[] = { "trusted.delegate", "user.delegate" };
	char value[2] = "";
	for (size_t i = 0; i < COUNT(marks); i++)
		if (getxattr(group, marks[i], value, 1) == 1 && streq(value, "1"))
			return true;
	return false;
}

/* A group that hands controllers on may have no members of its own. */
static int prepare(struct task *t, const char *group)
{
	static const char *const controllers[] = { "+memory", "+pids" };
	const char *leaf = str(t, "%s/daemon", group);
	if (mkdir(leaf, 0755) < 0 && errno != EEXIST)
		return -1;
	if (put(leaf, "cgroup.procs", str(t, "%d", (int)getpid())) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(controllers); i++)
		put(group, "cgroup.subtree_control", controllers[i]); /* what there is */
	return 0;
}

/* Started again, the daemon may be in its leaf already. */
static void find_root(void)
{
	struct task *t = task_new(NULL, "cgroup");
	const char *mount = find_mount(t), *own = own_group(t);
	char *group = mount && own ? str(t, "%s%s", mount, own) : NULL;
	if (group && ends_with(group, "/daemon"))
		group[strlen(group) - strlen("/daemon")] = 0;
	if (group && is_delegated(group) && prepare(t, group) == 0)
		root = strdup(group);
	log_line(t,
		 root ? "vms get limits cgroup=%s"
		      : "vms run without limits, for no cgroup is delegated to us cgroup=%s",
		 group ? group : "none");
	talloc_free(t);
}

void cgroup_open(void)
{
	pthread_once(&once, find_root);
}

/* ---- a VM's ---- */

void cgroup_place(struct task *t, const char *uuid, pid_t pid, uint64_t memory)
{
	cgroup_open();
	if (!root)
		return;
	const char *group = str(t, "%s/vm-%s", root, uuid);
	if (mkdir(group, 0755) < 0 && errno != EEXIST) {
		log_line(t, "vm has no limits vm=%s error=\"%s\"", uuid, strerror(errno));
		return;
	}
	put(group, "memory.max", str(t, "%" PRIu64, memory + memory / 4 + OWN_MEMORY));
	put(group, "pids.max", str(t, "%d", PIDS));
	if (put(group, "cgroup.procs", str(t, "%d", (int)pid)) < 0)
		log_line(t, "vm has no limits vm=%s error=\"%s\"", uuid, strerror(errno));
}

void cgroup_remove(const char *uuid)
{
	char path[4096];
	cgroup_open();
	snprintf(path, sizeof path, "%s/vm-%s", root ? root : "", uuid);
	if (root)
		rmdir(path); /* one that is not empty stays, and is used again */
}
