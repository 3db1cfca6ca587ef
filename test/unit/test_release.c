// SPDX-License-Identifier: Apache-2.0
/* test_release.c -- what is given back of a removed file, and what is left alone. */
#include "sr/release.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "unit/check.h"

enum { SIZE = 320 << 20, SMALL = 1 << 20 };

static int dir;

static int make(const char *name, int size)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && posix_fallocate(fd, 0, size) == 0);
	return fd;
}

static long long size_of(int fd)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0);
	return (long long)st.st_size;
}

/* Whose blocks they are is seen in the file system: nobody else may look. */
static long long free_bytes(void)
{
	struct statvfs s;
	CHECK(fstatvfs(dir, &s) == 0);
	return (long long)s.f_bfree * (long long)s.f_frsize;
}

static void test_alone(void)
{
	close(make("a", SIZE));
	long long before = free_bytes();
	int fd = release_begin(dir, "a");
	CHECK(fd >= 0 && unlinkat(dir, "a", 0) == 0);
	release(fd);
	CHECK(fcntl(fd, F_GETFD) < 0);
	CHECK(free_bytes() - before > SIZE / 2);
}

/* A second name, and somebody who reads what has none any more: both see it as it was. */
static void test_not_alone(void)
{
	close(make("b", SIZE));
	int fd = release_begin(dir, "b");
	CHECK(fd >= 0 && linkat(dir, "b", dir, "c", 0) == 0 && unlinkat(dir, "b", 0) == 0);
	release(fd);
	int other = openat(dir, "c", O_RDONLY | O_CLOEXEC);
	CHECK(other >= 0 && size_of(other) == SIZE);

	fd = release_begin(dir, "c");
	CHECK(fd >= 0 && unlinkat(dir, "c", 0) == 0);
	release(fd);
	CHECK(size_of(other) == SIZE);
	close(other);

	fd = release_begin(dir, "b");
	CHECK(fd == -1);
	release(fd);
}

static void test_named(void)
{
	close(make("d", SIZE));
	int fd = release_begin(dir, "d"), again;
	release(fd); /* its removal failed */
	CHECK((again = openat(dir, "d", O_RDONLY | O_CLOEXEC)) >= 0 && size_of(again) == SIZE);
	close(again);
	CHECK(unlinkat(dir, "d", 0) == 0);
}

static void test_small(void)
{
	close(make("e", SMALL));
	CHECK(release_begin(dir, "e") == -1);
	CHECK(symlinkat("e", dir, "f") == 0 && release_begin(dir, "f") == -1);
}

int main(void)
{
	char path[] = "/var/tmp/test_release.XXXXXX";
	struct task *t = task_new(NULL, "test");
	CHECK(mkdtemp(path) && (dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0);
	test_alone();
	test_not_alone();
	test_named();
	test_small();
	close(dir);
	CHECK(dir_remove(t, path) == 0);
	talloc_free(t);
	return 0;
}
