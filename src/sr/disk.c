// SPDX-License-Identifier: Apache-2.0
#include "sr/disk.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>

#include "base/delay.h"
#include "base/stream.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/serve.h"
#include "sr/sr.h"

enum {
	BLOCK = 64 << 10,
	EXTENTS = 1024, /* kept of one answer */
	REQUEST = 1 << 30,
};

/* What the server last said of a stretch. */
struct known {
	uint64_t from, to;
	size_t n;
	struct {
		uint64_t end;
		bool data;
	} v[EXTENTS];
};

struct disk {
	struct server server;
	struct served served;
	struct nbd_handle *nbd;
	uint64_t size;
	char *piece; /* DISK_PIECE bytes */
	struct known known;
};

/* ---- requests ---- */

static int nbd_failed(struct task *t, const struct disk *d)
{
	int err = nbd_get_errno();
	const char *text = nbd_get_error();
	return task_fail_errno(t, err ? err : EIO, err || !text ? d->server.id : text);
}

/* Waits until the connection can go on, and lets it. */
static int turn(struct task *t, struct disk *d)
{
	unsigned wants = nbd_aio_get_direction(d->nbd);
	short events = (short)((wants & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
			       (wants & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	int ready = task_wait(t, nbd_aio_get_fd(d->nbd), events, delay_ms(DELAY_DISK_STALL));
	if (ready < 0)
		return -1;
	if (ready == 0)
		return fail(t, INTERNAL_ERROR, "the storage did not answer in time");
	bool reads = wants & LIBNBD_AIO_DIRECTION_READ && ready & (POLLIN | POLLHUP | POLLERR);
	int result = reads ? nbd_aio_notify_read(d->nbd) : nbd_aio_notify_write(d->nbd);
	return result < 0 ? nbd_failed(t, d) : 0;
}

static int finish(struct task *t, struct disk *d, int64_t cookie)
{
	int done = 0;
	if (cookie < 0)
		return nbd_failed(t, d);
	while (done == 0) {
		if (nbd_aio_in_flight(d->nbd) > 0 && turn(t, d) < 0)
			return -1;
		done = nbd_aio_command_completed(d->nbd, (uint64_t)cookie);
	}
	return done < 0 ? nbd_failed(t, d) : 0;
}

/* ---- opening and closing ---- */

static int connect_to(struct task *t, struct disk *d)
{
	d->nbd = nbd_create();
	if (!d->nbd || nbd_set_export_name(d->nbd, d->served.node) < 0 ||
	    nbd_add_meta_context(d->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
	    nbd_aio_connect_unix(d->nbd, d->server.socket) < 0)
		return nbd_failed(t, d);
	while (nbd_aio_is_connecting(d->nbd))
		if (turn(t, d) < 0)
			return -1;
	int64_t size = nbd_aio_is_ready(d->nbd) ? nbd_get_size(d->nbd) : -1;
	if (size < 0)
		return nbd_failed(t, d);
	d->size = (uint64_t)size;
	return 0;
}

static struct disk *open_served(struct task *t, const struct served *s)
{
	struct disk *d = talloc_zero(t, struct disk);
	d->served = *s;
	d->piece = talloc_array(d, char, DISK_PIECE);
	int result = serve_start(t, &d->server, &d->served, 1);
	if (result == 0)
		result = connect_to(t, d);
	if (result < 0)
		disk_close(t, d, -1);
	return result < 0 ? NULL : d;
}

struct disk *disk_open(struct task *t, const struct sr *sr, const char *id, bool writable)
{
	return open_served(t, &(struct served){ .sr = sr, .id = id, .writable = writable });
}

struct disk *disk_open_image(struct task *t, int image)
{
	return open_served(t, &(struct served){ .id = "the image", .image = image });
}

static int flush(struct task *t, struct disk *d)
{
	if (finish(t, d, nbd_aio_flush(d->nbd, NBD_NULL_COMPLETION, 0)) < 0)
		return -1;
	return nbd_aio_disconnect(d->nbd, 0) < 0 ? nbd_failed(t, d) : 0;
}

int disk_close(struct task *t, struct disk *d, int result)
{
	const struct served *s = &d->served;
	if (result == 0 && s->writable)
		result = flush(t, d);
	if (result < 0)
		serve_find_cause(t, &d->server, d->server.pid);
	if (d->nbd)
		nbd_close(d->nbd);
	result = serve_end(t, &d->server, result);
	if (result == 0 && s->writable && s->sr->layout->sync)
		result = s->sr->layout->sync(t, s->sr, s->id);
	talloc_free(d);
	return result;
}

uint64_t disk_size(const struct disk *d)
{
	return d->size;
}

/* ---- what there is ---- */

/* Called by libnbd with lengths and flags in turn. */
static int take_extents(void *arg, const char *context, uint64_t at, uint32_t *entries, size_t n,
			int *error)
{
	struct known *k = arg;
	(void)context, (void)error;
	k->from = k->to = at;
	k->n = 0;
	for (size_t i = 0; i + 1 < n && k->n < EXTENTS; i += 2) {
		k->to += entries[i];
		k->v[k->n].end = k->to;
		k->v[k->n++].data = !(entries[i + 1] & LIBNBD_STATE_ZERO);
	}
	return 0;
}

static int learn(struct task *t, struct disk *d, uint64_t at, uint64_t limit)
{
	nbd_extent_callback take = { .callback = take_extents, .user_data = &d->known };
	uint64_t n = d->size - at < REQUEST ? d->size - at : REQUEST;
	d->known.from = d->known.to = 0;
	if (finish(t, d,
		   nbd_aio_block_status(d->nbd, n < limit ? n : limit, at, take,
					NBD_NULL_COMPLETION, 0)) < 0)
		return -1;
	if (d->known.from != at || d->known.to <= at)
		return fail(t, INTERNAL_ERROR, "the storage did not say what it holds");
	return 0;
}

int disk_extent(struct task *t, struct disk *d, uint64_t at, uint64_t limit, uint64_t *ret_n,
		bool *ret_data)
{
	struct known *k = &d->known;
	if ((at < k->from || at >= k->to) &&
	    learn(t, d, at, d->served.writable ? limit : REQUEST) < 0)
		return -1;
	size_t i = 0;
	while (k->v[i].end <= at)
		i++;
	uint64_t n = k->v[i].end - at;
	*ret_n = n < limit ? n : limit;
	*ret_data = k->v[i].data;
	return 0;
}

int disk_read(struct task *t, struct disk *d, uint64_t at, void *to, size_t n)
{
	return finish(t, d, nbd_aio_pread(d->nbd, to, n, at, NBD_NULL_COMPLETION, 0));
}

/* ---- writing ---- */

static int check_end(struct task *t, const struct disk *d, uint64_t at, uint64_t n)
{
	if (n <= d->size && at <= d->size - n)
		return 0;
	return fail(t, VDI_TOO_SMALL, d->server.id, str(t, "%llu", (unsigned long long)(at + n)));
}

/* What was known of a disk that is written is no longer so. */
static void forget(struct disk *d)
{
	d->known.to = d->known.from;
}

static int zero_extent(struct task *t, struct disk *d, uint64_t at, uint64_t n, bool data)
{
	return data ? finish(t, d, nbd_aio_zero(d->nbd, n, at, NBD_NULL_COMPLETION, 0)) : 0;
}

/* Only where there is something: to say of a hole that it is zero would take room in the tables. */
int disk_zero(struct task *t, struct disk *d, uint64_t at, uint64_t n)
{
	if (check_end(t, d, at, n) < 0)
		return -1;
	forget(d);
	for (uint64_t part; n; at += part, n -= part) {
		bool data;
		if (disk_extent(t, d, at, n < REQUEST ? n : REQUEST, &part, &data) < 0 ||
		    zero_extent(t, d, at, part, data) < 0)
			return -1;
	}
	forget(d);
	return 0;
}

/* Bytes from the beginning whose blocks are all zero, or all not. */
static size_t alike(uint64_t at, const char *from, size_t n, bool *ret_zero)
{
	size_t done = 0;
	while (done < n) {
		size_t part = BLOCK - (size_t)((at + done) % BLOCK);
		part = part < n - done ? part : n - done;
		bool zero = is_zero(from + done, part);
		if (done && zero != *ret_zero)
			break;
		*ret_zero = zero;
		done += part;
	}
	return done;
}

int disk_write(struct task *t, struct disk *d, uint64_t at, const void *from, size_t n)
{
	const char *bytes = from;
	if (check_end(t, d, at, n) < 0)
		return -1;
	for (size_t part; n; at += part, bytes += part, n -= part) {
		bool zero = false;
		part = alike(at, bytes, n, &zero);
		int result = zero ? disk_zero(t, d, at, part)
				  : finish(t, d,
					   nbd_aio_pwrite(d->nbd, bytes, part, at,
							  NBD_NULL_COMPLETION, 0));
		if (result < 0)
			return -1;
	}
	forget(d);
	return 0;
}

/* ---- whole disks ---- */

static int send_extent(struct task *t, struct disk *d, struct stream *s, uint64_t n, bool data)
{
	if (!data)
		return stream_zeros(t, s, n);
	if (disk_read(t, d, s->at, d->piece, (size_t)n) < 0)
		return -1;
	return stream_write(t, s, d->piece, (size_t)n);
}

int disk_send(struct task *t, struct disk *d, struct stream *s)
{
	while (s->at < d->size) {
		uint64_t n;
		bool data;
		if (disk_extent(t, d, s->at, DISK_PIECE, &n, &data) < 0 ||
		    send_extent(t, d, s, n, data) < 0)
			return -1;
	}
	return 0;
}

int disk_receive(struct task *t, struct disk *d, struct stream *s)
{
	ssize_t got = DISK_PIECE;
	while (got == DISK_PIECE) {
		uint64_t at = s->at;
		got = stream_some(t, s, d->piece, DISK_PIECE);
		if (got < 0 || disk_write(t, d, at, d->piece, (size_t)got) < 0)
			return -1;
	}
	return 0;
}

int disk_copy(struct task *t, struct disk *from, struct disk *to)
{
	for (uint64_t at = 0, n; at < from->size; at += n) {
		bool data;
		uint64_t limit = DISK_PIECE - at % DISK_PIECE;
		if (disk_extent(t, from, at, REQUEST, &n, &data) < 0)
			return -1;
		n = data && n > limit ? limit : n;
		if (data ? disk_read(t, from, at, to->piece, (size_t)n) < 0 ||
				    disk_write(t, to, at, to->piece, (size_t)n) < 0
			 : disk_zero(t, to, at, n) < 0)
			return -1;
		task_progress(t, (double)(at + n) / (double)from->size);
	}
	return 0;
}
