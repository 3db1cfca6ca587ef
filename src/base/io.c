// SPDX-License-Identifier: Apache-2.0
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/task.h"
#include "base/text.h"

void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

ssize_t io_read(struct task *t, int fd, void *to, size_t n, int ms)
{
	size_t done = 0;
	while (done < n) {
		int ready = task_wait(t, fd, POLLIN, ms);
		if (ready < 0)
			return -1;
		if (ready == 0)
			return fail(t, INTERNAL_ERROR, "the peer sent nothing in time");
		ssize_t got = read(fd, (char *)to + done, n - done);
		if (got == 0)
			break;
		if (got > 0)
			done += (size_t)got;
		else if (errno != EINTR && errno != EAGAIN)
			return task_fail_errno(t, errno, "read");
	}
	return (ssize_t)done;
}

int io_write(struct task *t, int fd, const void *from, size_t n, int ms)
{
	size_t done = 0;
	while (done < n) {
		int ready = task_wait(t, fd, POLLOUT, ms);
		if (ready < 0)
			return -1;
		if (ready == 0)
			return fail(t, INTERNAL_ERROR, "the peer took nothing in time");
		ssize_t put = write(fd, (const char *)from + done, n - done);
		if (put >= 0)
			done += (size_t)put;
		else if (errno != EINTR && errno != EAGAIN)
			return task_fail_errno(t, errno, "write");
	}
	return 0;
}

char *file_read(struct task *t, const char *path, size_t limit)
{
	FD_SCOPE int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		task_fail_errno(t, errno, path);
		return NULL;
	}
	char *s = talloc_array(t, char, limit + 1);
	size_t n = 0;
	for (ssize_t got = 1; got > 0 && n < limit; n += (size_t)got) {
		got = read(fd, s + n, limit - n);
		if (got < 0) {
			task_fail_errno(t, errno, path);
			return NULL;
		}
	}
	s[n] = 0;
	if (n == limit)
		return fail_ptr(t, INTERNAL_ERROR,
				str(t, "%s: larger than %zu bytes", path, limit));
	return talloc_realloc(t, s, char, n + 1);
}

static int folder_sync(struct task *t, const char *path, enum sync_site site)
{
	FD_SCOPE int fd = open(dirname(talloc_strdup(t, path)), O_RDONLY | O_CLOEXEC);
	return fd < 0 || sync_file(fd, site) < 0 ? task_fail_errno(t, errno, path) : 0;
}

/* Always a new file: what a killed process has left there goes, and so does a link that somebody
 * put there, to have us write elsewhere. */
static int write_synced(struct task *t, const char *path, const void *bytes, size_t n, mode_t mode)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return task_fail_errno(t, errno, path);
	FD_SCOPE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return task_fail_errno(t, errno, path);
	if (fchmod(fd, mode) < 0)
		return task_fail_errno(t, errno, path);
	if (io_write(t, fd, bytes, n, -1) < 0)
		return -1;
	if (sync_file(fd, SYNC_FILE_CONTENT) < 0)
		return task_fail_errno(t, errno, path);
	return 0;
}

int file_write_bytes(struct task *t, const char *path, const void *bytes, size_t n, mode_t mode)
{
	const char *temp = str(t, "%s.new", path);
	if (write_synced(t, temp, bytes, n, mode) < 0)
		return -1;
	if (rename(temp, path) < 0)
		return task_fail_errno(t, errno, path);
	return folder_sync(t, path, SYNC_FILE_NAME);
}

int file_write(struct task *t, const char *path, const char *text, mode_t mode)
{
	return file_write_bytes(t, path, text, strlen(text), mode);
}

int file_datasync(struct task *t, const char *path, enum sync_site site)
{
	FD_SCOPE int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || sync_data(fd, site) < 0 ? task_fail_errno(t, errno, path) : 0;
}

int file_delete(struct task *t, const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return task_fail_errno(t, errno, path);
	return folder_sync(t, path, SYNC_FILE_GONE);
}

bool file_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

int dir_make(struct task *t, const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return task_fail_errno(t, errno, path);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

int dir_remove(struct task *t, const char *path)
{
	enum { OPEN_AT_ONCE = 8 };
	if (nftw(path, remove_one, OPEN_AT_ONCE, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
		return task_fail_errno(t, errno, path);
	return 0;
}

/* Socket paths are short (108 bytes); a longer one is reached through its folder's descriptor. */
static int unix_address(struct task *t, const char *path, struct sockaddr_un *sa, int *ret_dir)
{
	*sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*ret_dir = -1;
	if (strlen(path) < sizeof sa->sun_path) {
		memcpy(sa->sun_path, path, strlen(path) + 1);
		return 0;
	}
	char *copy = talloc_strdup(t, path), *copy2 = talloc_strdup(t, path);
	*ret_dir = open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_dir < 0)
		return task_fail_errno(t, errno, path);
	snprintf(sa->sun_path, sizeof sa->sun_path, "/proc/self/fd/%d/%.40s", *ret_dir,
		 basename(copy2));
	return 0;
}

int unix_listen(struct task *t, const char *path, mode_t mode)
{
	struct sockaddr_un sa;
	FD_SCOPE int dir = -1;
	if (unix_address(t, path, &sa, &dir) < 0)
		return -1;
	unlink(path);
	FD_SCOPE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || chmod(path, mode) < 0 ||
	    listen(fd, 128) < 0)
		return task_fail_errno(t, errno, path);
	int ret = fd;
	fd = -1;
	return ret;
}

/* One whose queue is full says so at once; a blocking connect() would wait without end. */
int unix_connect(struct task *t, const char *path)
{
	struct sockaddr_un sa;
	FD_SCOPE int dir = -1;
	if (unix_address(t, path, &sa, &dir) < 0)
		return -1;
	int64_t until = clock_ms() + delay_ms(DELAY_CONNECT);
	FD_SCOPE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return task_fail_errno(t, errno, path);
	while (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
		if (errno == EAGAIN && clock_ms() < until &&
		    task_wait(t, -1, 0, delay_ms(DELAY_CONNECT_AGAIN)) == 0)
			continue;
		return t->code == NO_ERROR ? task_fail_errno(t, errno, path) : -1;
	}
	fcntl(fd, F_SETFL, 0);
	int ret = fd;
	fd = -1;
	return ret;
}
