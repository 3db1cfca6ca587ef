// SPDX-License-Identifier: Apache-2.0
/* mounted.h -- a file system of one's own, in a file. */
#pragma once

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "unit/outcome.h"

static const char *mounted; /* unmounted at the end, however that comes */

static inline void unmount(void)
{
	if (mounted)
		umount2(mounted, MNT_DETACH);
}

/* What cannot be had here is skipped. */
static inline bool ran(struct task *t, const char *const *argv, const char *name)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 60000 };
	if (run_ok(t, &r) == 0)
		return true;
	printf("%s: skipped, %s\n", name, task_error(t));
	task_forgive(t);
	return false;
}

struct fs {
	const char *name, *mkfs, *option;
	int mib;
	bool direct, small; /* what a test is to expect of it */
};

/* In the folder, for as long as use() takes. */
static inline void with_mounted(const char *scratch, const struct fs *f,
				void (*use)(const struct fs *, const char *dir))
{
	struct task *t = task_new(NULL, f->name);
	const char *image = str(t, "%s/image", scratch), *dir = str(t, "%s/mount", scratch);
	FD_SCOPE int fd = open(image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)f->mib << 20) == 0);
	GOOD(dir_make(t, dir, 0700));
	if (ran(t, RUN_ARGV(f->mkfs, f->option, image), f->name) &&
	    ran(t, RUN_ARGV("mount", "-o", "loop", image, dir), f->name)) {
		mounted = dir;
		use(f, dir);
		mounted = NULL;
		CHECK(umount(dir) == 0);
	}
	CHECK(rmdir(dir) == 0 && unlink(image) == 0);
	talloc_free(t);
}
