// SPDX-License-Identifier: Apache-2.0
/* kill_at.c -- preloaded into a program: kills it before its KILL_AT-th call that changes a file. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static void count(void)
{
	static atomic_int n;
	const char *at = getenv("KILL_AT");
	if (++n == (at ? atoi(at) : 0))
		kill(getpid(), SIGKILL);
}

/* The program's call of that name comes here, and goes on to the C library's. */
#define CALL(type, name, parameters, arguments)                                                    \
	type name parameters;                                                                      \
	type name parameters                                                                       \
	{                                                                                          \
		type(*real) parameters = (type(*) parameters)dlsym(RTLD_NEXT, #name);              \
		count();                                                                           \
		return real arguments;                                                             \
	}

CALL(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t at), (fd, b, n, at))
CALL(ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at))
CALL(ssize_t, pwritev64v2, (int fd, const struct iovec *v, int n, off64_t at, int how),
     (fd, v, n, at, how))
CALL(int, fdatasync, (int fd), (fd))
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n))
CALL(int, fallocate64, (int fd, int how, off64_t at, off64_t n), (fd, how, at, n))
