// SPDX-License-Identifier: Apache-2.0
#include "wire/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "api/vdi.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "wire/auth.h"
#include "wire/http.h"

enum {
	HEAD_MS = 60000,
	PIPE_SIZE = 1 << 20,
};

static int say(struct task *t, struct request *req, const char *text)
{
	return io_write(t, req->fd, text, strlen(text), HEAD_MS);
}

/* The disk that vdi= names, or NULL with an error recorded. */
static struct VDI_row *vdi_named(struct task *t, struct request *req)
{
	const char *vdi = map_get(&req->query, "vdi"), *format = map_get(&req->query, "format");
	if (!vdi)
		return fail_ptr(t, INVALID_VALUE, "vdi", "");
	if (format && !streq(format, "raw"))
		return fail_ptr(t, VALUE_NOT_SUPPORTED, "format", format, "only raw is known");
	return starts_with(vdi, "OpaqueRef:") ? db_get(t, VDI, vdi) : db_by_uuid(t, VDI, vdi);
}

static void refuse(struct task *t, struct request *req)
{
	http_refuse(t, req, http_status_of(t), task_error(t));
}

static void note(struct task *t, struct request *req, const char *what, const char *uuid)
{
	if (t->code == NO_ERROR)
		log_line(t, "disk %s vdi=%s peer=\"%s\"", what, uuid, req->peer);
	else
		log_line(t, "disk not %s vdi=%s peer=\"%s\" error=\"%s\" place=%s", what, uuid,
			 req->peer, task_error(t), t->place ? t->place : "-");
}

/* ---- out ---- */

/* Carries an export to the client, and says 200 only when there is a first byte to send: until
 * then a failure still has a status and a reason. */
struct pump {
	int from, to; /* a pipe's end, and the connection */
	const char *head;
	bool begun;
};

static void *pump(void *arg)
{
	struct pump *p = arg;
	struct pollfd in = { .fd = p->from, .events = POLLIN };
	while (poll(&in, 1, -1) < 0 && errno == EINTR)
		;
	p->begun = in.revents & POLLIN;
	ssize_t n = 0;
	if (p->begun)
		n = write(p->to, p->head, strlen(p->head));
	while (n > 0)
		n = splice(p->from, NULL, p->to, NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_MORE);
	/* If it was the client who ended, the export notices when it writes on. */
	fd_close(&p->from);
	return NULL;
}

/* Exports through the pump; true when an answer has begun. */
static bool export_pumped(struct task *t, struct request *req, const char *vdi, const char *head)
{
	int pipe_fd[2];
	pthread_t thread;
	if (pipe2(pipe_fd, O_CLOEXEC) < 0) {
		task_fail_errno(t, errno, "pipe");
		return false;
	}
	fcntl(pipe_fd[1], F_SETPIPE_SZ, PIPE_SIZE); /* if it may not be so large, it is slower */
	struct pump p = { .from = pipe_fd[0], .to = req->fd, .head = head };
	int err = pthread_create(&thread, NULL, pump, &p);
	if (err)
		task_fail_errno(t, err, "pthread_create");
	else
		vdi_export_raw(t, vdi, pipe_fd[1]);
	close(pipe_fd[1]);
	if (err)
		close(pipe_fd[0]);
	else
		pthread_join(thread, NULL);
	return p.begun;
}

static const char *export_head(struct task *t, const struct VDI_row *vdi, int64_t size)
{
	return str(t,
		   "HTTP/1.0 200 OK\r\n"
		   "Content-Type: application/octet-stream\r\n"
		   "Content-Length: %lld\r\n"
		   "Content-Disposition: attachment; filename=\"%s.raw\"\r\n"
		   "Cache-Control: no-store\r\n"
		   "Connection: close\r\n\r\n",
		   (long long)size, vdi->uuid);
}

static void export_vdi(struct task *t, struct request *req)
{
	struct VDI_row *vdi = vdi_named(t, req);
	int64_t size = vdi ? vdi_size(t, vdi->row.ref) : -1;
	if (size < 0) {
		refuse(t, req);
		return;
	}
	const char *head = export_head(t, vdi, size);
	bool begun = export_pumped(t, req, vdi->row.ref, head);
	if (!begun && t->code != NO_ERROR)
		refuse(t, req);
	else if (!begun)
		say(t, req, head); /* an empty disk */
	note(t, req, "exported", vdi->uuid);
}

void transfer_export_vdi(struct task *t, struct request *req)
{
	if (auth_begin(t, req) < 0)
		return;
	export_vdi(t, req);
	auth_end(t, req);
}

/* ---- in ---- */

static void import_body(struct task *t, struct request *req, struct VDI_row *vdi)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n"
				   "Content-Type: text/plain; charset=utf-8\r\n"
				   "Connection: close\r\n\r\n";
	uint64_t length = req->body_length < 0 ? 0 : (uint64_t)req->body_length;
	if (http_continue(t, req) == 0 && say(t, req, head) == 0)
		vdi_import_raw(t, vdi->row.ref, req->fd, length);
	if (t->code != NO_ERROR)
		say(t, req, str(t, "Error: %s\n", task_error(t)));
	note(t, req, "imported", vdi->uuid);
}

static void import_vdi(struct task *t, struct request *req)
{
	if (req->chunked || map_get(&req->query, "chunked")) {
		http_refuse(t, req, 403, "IMPORT_ERROR_CANNOT_HANDLE_CHUNKED");
		return;
	}
	/* To the API, a length of 0 means "until the end". */
	if (req->body_length == 0) {
		http_refuse(t, req, 400, "The body is empty.");
		return;
	}
	struct VDI_row *vdi = vdi_named(t, req);
	if (!vdi || vdi_size(t, vdi->row.ref) < 0)
		refuse(t, req);
	else
		import_body(t, req, vdi);
}

void transfer_import_vdi(struct task *t, struct request *req)
{
	if (auth_begin(t, req) < 0)
		return;
	import_vdi(t, req);
	auth_end(t, req);
}
