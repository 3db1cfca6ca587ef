// SPDX-License-Identifier: Apache-2.0
#include "memory/receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"

enum {
	FEW = 64 << 10, /* bytes */
	NAP_US = 2000,
	SOCKET_BYTES = 4 << 20, /* that QEMU may send meanwhile, if we may have as much */
};

struct receiver {
	int fd;    /* ours of the pair */
	int image; /* our own */
	uint64_t limit;
	int done; /* eventfd: the writer has ended */
	pthread_t drain;
	_Atomic uint64_t pages, pages_in_all;

	/* The writer's, and after its end the owner's. */
	struct task *own;
	struct migration_sink inner;
	struct image_writer *writer;

	pthread_mutex_t lock; /* guards what follows, for moments only */
	pthread_cond_t moved;
	char *ring;
	uint64_t in, out;   /* bytes that went in, and came out, since it was empty */
	int64_t full_since; /* the ring has not been half empty since; 0: it is */
	uint64_t out_since; /* what had come out then */
	bool ended;         /* by QEMU */
	const char *closed; /* by us: why; NULL: not */
	int users;          /* owner and writer */
};

/* ---- life ---- */

static void receiver_free(struct receiver *r)
{
	if (r->ring)
		munmap(r->ring, RECEIVER_RING);
	fd_close(&r->fd);
	fd_close(&r->image);
	fd_close(&r->done);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->moved);
	talloc_free(r->own);
	free(r);
}

static void let_go(struct receiver *r)
{
	pthread_mutex_lock(&r->lock);
	bool last = --r->users == 0;
	pthread_cond_broadcast(&r->moved);
	pthread_mutex_unlock(&r->lock);
	if (last)
		receiver_free(r);
}

/* lock held */
static void close_now(struct receiver *r, const char *why)
{
	if (!r->closed)
		r->closed = why;
	shutdown(r->fd, SHUT_RDWR);
	pthread_cond_broadcast(&r->moved);
}

/* ---- the ring; lock held ---- */

static bool is_over(const struct receiver *r)
{
	return r->ended || r->closed;
}

/* Until something moves, or it is time to look again. */
static void sleep_on(struct receiver *r)
{
	clock_wait(&r->moved, &r->lock, clock_ms() + delay_ms(DELAY_MEMORY_LOOK));
}

/* A full ring is no harm as long as it moves: a page of the guest's is soon sent then. */
static void judge(struct receiver *r)
{
	int64_t now = clock_ms();
	if (r->full_since && now - r->full_since < delay_ms(DELAY_MEMORY_STALL))
		return;
	if (r->full_since && r->out - r->out_since < RECEIVER_LEAST) {
		log_line(NULL, "memory is taken in no more: its image does not get on");
		close_now(r, "the storage of the memory image is too slow, or does not answer");
		return;
	}
	r->full_since = now;
	r->out_since = r->out;
}

/* A piece of the ring to be filled; 0: it is over. */
static size_t room(struct receiver *r, char **ret)
{
	while (!is_over(r) && r->in - r->out == RECEIVER_RING) {
		judge(r);
		if (!is_over(r))
			sleep_on(r);
	}
	if (r->in == r->out)
		r->in = r->out = 0; /* memory that is warm */
	size_t at = (size_t)(r->in % RECEIVER_RING);
	uint64_t free_bytes = RECEIVER_RING - (r->in - r->out);
	*ret = r->ring + at;
	if (is_over(r))
		return 0;
	return free_bytes < RECEIVER_RING - at ? (size_t)free_bytes : RECEIVER_RING - at;
}

/* ---- reading from QEMU ---- */

/* QEMU sends page after page.  Each would wake up who waits for it, which costs both more than the page does: so
 * what comes during a nap is taken at once. */
static void *drain(void *arg)
{
	struct receiver *r = arg;
	char *to;
	pthread_mutex_lock(&r->lock);
	for (size_t n; (n = room(r, &to));) {
		pthread_mutex_unlock(&r->lock);
		ssize_t got = recv(r->fd, to, n, 0);
		int err = errno;
		if (got > 0 && got < FEW)
			usleep(NAP_US);
		pthread_mutex_lock(&r->lock);
		if (got > 0)
			r->in += (uint64_t)got;
		else if (got == 0 || err != EINTR)
			r->ended = !r->closed;
		pthread_cond_broadcast(&r->moved);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- writing ---- */

/* As migration_source.read. */
static ssize_t take(struct task *t, void *arg, void *to, size_t n)
{
	struct receiver *r = arg;
	pthread_mutex_lock(&r->lock);
	while (r->in == r->out && !is_over(r))
		sleep_on(r);
	const char *closed = r->closed;
	size_t at = (size_t)(r->out % RECEIVER_RING), some = (size_t)(r->in - r->out);
	pthread_mutex_unlock(&r->lock);
	if (closed)
		return fail(t, INTERNAL_ERROR, closed);
	some = some < n ? some : n;
	some = some < RECEIVER_RING - at ? some : RECEIVER_RING - at;
	memcpy(to, r->ring + at, some); /* nobody else touches what is filled */
	pthread_mutex_lock(&r->lock);
	r->out += some;
	if (r->in - r->out < RECEIVER_RING / 2)
		r->full_since = 0;
	pthread_cond_broadcast(&r->moved);
	pthread_mutex_unlock(&r->lock);
	return (ssize_t)some;
}

static int count_blocks(struct task *t, void *arg, const char *machine, size_t n,
			const struct migration_block *blocks)
{
	struct receiver *r = arg;
	uint64_t bytes = 0;
	for (size_t i = 0; i < n; i++)
		bytes += blocks[i].size;
	atomic_store(&r->pages_in_all, bytes / MIGRATION_PAGE);
	return r->inner.begin(t, r->inner.arg, machine, n, blocks);
}

static int count_page(struct task *t, void *arg, size_t block, uint64_t offset, const void *page)
{
	struct receiver *r = arg;
	atomic_fetch_add(&r->pages, 1);
	return r->inner.page(t, r->inner.arg, block, offset, page);
}

static int hand_state(struct task *t, void *arg, const void *bytes, size_t n)
{
	struct receiver *r = arg;
	return r->inner.state(t, r->inner.arg, bytes, n);
}

static void *writer(void *arg)
{
	struct receiver *r = arg;
	const struct migration_source source = { take, r };
	const struct migration_sink sink = { count_blocks, count_page, hand_state, r };
	if (migration_read(r->own, &source, r->limit, &sink) < 0) {
		pthread_mutex_lock(&r->lock);
		close_now(r, "the memory image could not be written");
		pthread_mutex_unlock(&r->lock);
	}
	eventfd_write(r->done, 1);
	let_go(r);
	return NULL;
}

/* ---- beginning ---- */

static struct receiver *receiver_new(struct task *t, int image, uint64_t limit)
{
	struct receiver *r = calloc(1, sizeof *r);
	if (!r)
		return fail_ptr(t, INTERNAL_ERROR, "out of memory");
	*r = (struct receiver){ .fd = -1, .limit = limit, .users = 1 };
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->moved, NULL);
	r->own = task_new(NULL, t->name);
	r->own->ref = talloc_strdup(r->own, t->ref);
	r->image = fcntl(image, F_DUPFD_CLOEXEC, 0);
	r->done = eventfd(0, EFD_CLOEXEC);
	void *ring = mmap(NULL, RECEIVER_RING, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	r->ring = ring == MAP_FAILED ? NULL : ring;
	if (r->image >= 0 && r->done >= 0 && r->ring)
		return r;
	task_fail_errno(t, errno, "memory receiver");
	receiver_free(r);
	return NULL;
}

/* The writer is nobody's child: it may have to be left behind. */
static int start_writer(struct receiver *r)
{
	pthread_t thread;
	r->writer = image_begin(r->own, r->image);
	r->inner = image_sink(r->writer);
	r->users++;
	int err = pthread_create(&thread, NULL, writer, r);
	if (err == 0)
		pthread_detach(thread);
	else
		r->users--;
	return err;
}

struct receiver *receiver_open(struct task *t, int image, uint64_t limit, int *ret_theirs)
{
	int pair[2];
	struct receiver *r = receiver_new(t, image, limit);
	if (!r)
		return NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		task_fail_errno(t, errno, "socketpair");
		receiver_free(r);
		return NULL;
	}
	r->fd = pair[0];
	int bytes = SOCKET_BYTES;
	if (setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0)
		setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	int err = pthread_create(&r->drain, NULL, drain, r);
	if (err == 0 && (err = start_writer(r)) == 0) {
		*ret_theirs = pair[1];
		return r;
	}
	close(pair[1]); /* the drain, where there is one, ends by that */
	if (r->writer)
		pthread_join(r->drain, NULL);
	task_fail_errno(t, err, "a thread for memory");
	receiver_free(r);
	return NULL;
}

/* ---- the end ---- */

static const char *why_closed(struct receiver *r)
{
	pthread_mutex_lock(&r->lock);
	const char *why = r->closed;
	pthread_mutex_unlock(&r->lock);
	return why;
}

static void tell_progress(struct task *t, struct receiver *r)
{
	uint64_t all = atomic_load(&r->pages_in_all), n = atomic_load(&r->pages);
	if (all)
		task_progress(t, n < all ? (double)n / (double)all : 1);
}

/* The writer has ended: what was its own is the owner's.  It says so in the lock, where its last deed was. */
static void take_over(struct receiver *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->users > 1)
		pthread_cond_wait(&r->moved, &r->lock);
	pthread_mutex_unlock(&r->lock);
}

struct image_writer *receiver_wait(struct task *t, struct receiver *r)
{
	bool asked = false;
	for (;;) {
		int ready = task_wait(t, r->done, POLLIN, delay_ms(DELAY_MEMORY_LOOK));
		if (ready < 0)
			return NULL;
		if (ready > 0)
			break;
		tell_progress(t, r);
		const char *why = why_closed(r);
		if (why && asked) /* a second look: the writer does not end, its disk hangs */
			return fail_ptr(t, INTERNAL_ERROR, why);
		asked = why != NULL;
	}
	take_over(r);
	if (r->own->code == NO_ERROR)
		return r->writer;
	task_fail_params(t, r->own->code, r->own->params);
	return NULL;
}

/* By who sends: that the writer cannot read such a stream is no cause. */
static bool was_cut(struct receiver *r)
{
	pthread_mutex_lock(&r->lock);
	bool ended = r->ended;
	pthread_mutex_unlock(&r->lock);
	return ended;
}

/* The writer ends at once, unless its disk hangs. */
int receiver_find_cause(struct task *t, struct receiver *r)
{
	struct pollfd p = { .fd = r->done, .events = POLLIN };
	bool ended = poll(&p, 1, why_closed(r) ? 2 * delay_ms(DELAY_MEMORY_LOOK) : 0) > 0;
	const char *why = why_closed(r);
	if (!why)
		return -1;
	if (ended)
		take_over(r);
	enum code code = ended ? r->own->code : NO_ERROR;
	if (code == INTERNAL_ERROR && was_cut(r))
		return -1;
	task_forgive(t);
	return code != NO_ERROR ? task_fail_params(t, code, r->own->params)
				: fail(t, INTERNAL_ERROR, why);
}

void receiver_close(struct receiver *r)
{
	pthread_mutex_lock(&r->lock);
	close_now(r, "it was given up");
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->drain, NULL);
	let_go(r);
}
