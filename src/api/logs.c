// SPDX-License-Identifier: Apache-2.0
#include "api/logs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/settings.h"
#include "base/io.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum { KEPT = 1 << 20 };

static int keep_end(struct task *t, int fd, off_t size, const char *path)
{
	const char *old = str(t, "%s.old", path);
	char *end = talloc_array(t, char, KEPT);
	ssize_t n = pread(fd, end, KEPT, size - KEPT);
	FD_SCOPE int to = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (n < 0 || to < 0)
		return -1;
	return io_write(t, to, end, (size_t)n, -1);
}

static void trim(struct task *t, const char *path)
{
	struct stat st;
	FD_SCOPE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= GUEST_LOG_LIMIT)
		return;
	/* A full disk is no reason to let the guest fill it further. */
	if (keep_end(t, fd, st.st_size, path) < 0)
		task_forgive(t);
	if (ftruncate(fd, 0) == 0)
		log_line(t, "log trimmed path=%s bytes=%lld", path, (long long)st.st_size);
}

/* Guests' and the daemon's own.  The folders say who runs, or did: to ask the database would cost
 * the more, the more VMs there are. */
void logs_trim(struct task *t)
{
	static const char *const names[] = { "serial.log", "qemu.log" };
	const char *run = str(t, "%s/run", settings.state);
	DIR *d = opendir(run);
	for (struct dirent *e; d && (e = readdir(d));)
		for (size_t i = 0; i < COUNT(names) && e->d_name[0] != '.'; i++)
			trim(t, str(t, "%s/%s/%s", run, e->d_name, names[i]));
	if (d)
		closedir(d);
	log_trim(t);
}
