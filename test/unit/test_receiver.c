// SPDX-License-Identifier: Apache-2.0
/* test_receiver.c -- a migration taken in through a socket: whole, cut, given up, and onto a storage that fails. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "memory/receiver.h"
#include "unit/check.h"
#include "unit/migration_stream.h"

enum { LIMIT = 4 * PAGE };

static struct task *fresh(void)
{
	return task_new(NULL, "receiver");
}

/* All of it in pieces of n bytes; what the other side does not take is left. */
static void send_all(int fd, const unsigned char *from, size_t n, size_t piece)
{
	for (size_t at = 0; at < n; at += piece)
		if (send(fd, from + at, n - at < piece ? n - at : piece, MSG_NOSIGNAL) < 0)
			break;
}

static void test_whole(const struct maker *m)
{
	for (size_t piece = 1; piece < 100000; piece *= 7) {
		struct task *t = fresh();
		int fd = memfd_create("image", MFD_CLOEXEC), theirs;
		struct receiver *r = receiver_open(t, fd, LIMIT, &theirs);
		CHECK(r);
		send_all(theirs, m->b, m->n, piece);
		close(theirs);
		struct image_writer *w = receiver_wait(t, r);
		CHECK(w);
		uint64_t bytes;
		json_t *notes = json_object();
		CHECK(image_finish(t, w, notes, &bytes) == 0);
		json_decref(notes);
		receiver_close(r);
		struct image *i = image_open(t, fd);
		CHECK(i && image_verify(t, i) == 0 && i->nblocks == 2);
		close(fd);
		talloc_free(t);
	}
}

/* What it failed with is the task's; behind a failure of who sends, if it is the cause of that. */
static void fails(const struct maker *m, size_t n, int image, enum code code, const char *says)
{
	struct task *t = fresh();
	int theirs;
	struct receiver *r = receiver_open(t, image, LIMIT, &theirs);
	CHECK(r);
	send_all(theirs, m->b, n, 4096);
	shutdown(theirs, SHUT_WR);
	CHECK(!receiver_wait(t, r) && t->code == code && strstr(task_error(t), says));
	char byte;
	CHECK(recv(theirs, &byte, 1, 0) <= 0); /* it is closed, so whoever sends finds out */
	task_forgive(t);
	fail(t, INTERNAL_ERROR, "Broken pipe");
	CHECK(receiver_find_cause(t, r) < 0 && t->code == code);
	CHECK(!strstr(task_error(t), "Broken pipe") == (code != INTERNAL_ERROR));
	receiver_close(r);
	close(theirs);
	close(image);
	talloc_free(t);
}

static void test_failures(const struct maker *m)
{
	for (size_t n = 0; n < m->n; n += 97)
		fails(m, n, memfd_create("image", MFD_CLOEXEC), INTERNAL_ERROR, "it ends");
	int full = open("/dev/full", O_RDWR | O_CLOEXEC);
	fails(m, m->n, full, SR_BACKEND_FAILURE_44, "insufficient space");
}

/* Who sends is not held up by one who has given up. */
static void test_given_up(const struct maker *m)
{
	struct task *t = fresh();
	int fd = memfd_create("image", MFD_CLOEXEC), theirs;
	struct receiver *r = receiver_open(t, fd, LIMIT, &theirs);
	CHECK(r);
	send_all(theirs, m->b, m->n / 2, 1000);
	t->cancellable = true;
	task_interrupt(t);
	CHECK(!receiver_wait(t, r) && t->code == TASK_CANCELLED);
	receiver_close(r);
	CHECK(send(theirs, m->b, 1, MSG_NOSIGNAL) < 0);
	close(theirs);
	close(fd);
	talloc_free(t);
}

int main(void)
{
	static struct maker m;
	signal(SIGPIPE, SIG_IGN);
	make(&m, true);
	test_whole(&m);
	make(&m, false);
	test_whole(&m);
	test_failures(&m);
	test_given_up(&m);
	return 0;
}
