// SPDX-License-Identifier: Apache-2.0
#include "sr/release.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/task.h"

enum { LARGE = 256 << 20, PIECE = 32 << 20, PAUSE_MS = 10 };

static int64_t blocks_of(const struct stat *st)
{
	return (int64_t)st->st_blocks * 512;
}

int release_begin(int dir, const char *name)
{
	struct stat st;
	int fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && blocks_of(&st) > LARGE))
		return fd;
	close(fd);
	return -1;
}

/* A lease to write is given only to who has the file alone; without a name nobody else comes to it any more. */
static bool is_ours_alone(int fd, struct stat *st)
{
	return fstat(fd, st) == 0 && st->st_nlink == 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
}

/* By length: of a sparse file a piece may hold nothing, and costs as much. */
static bool shorten(int fd, struct stat *st)
{
	off_t size = st->st_size > PIECE ? st->st_size - PIECE : 0;
	poll(NULL, 0, PAUSE_MS);
	return ftruncate(fd, size) == 0 && fsync(fd) == 0 && fstat(fd, st) == 0;
}

void release(int fd)
{
	struct stat st;
	int64_t end = clock_ms() + delay_ms(DELAY_RELEASE_PATIENCE);
	if (fd < 0)
		return;
	if (is_ours_alone(fd, &st))
		while (blocks_of(&st) > PIECE && clock_ms() < end && shorten(fd, &st))
			;
	close(fd);
}
