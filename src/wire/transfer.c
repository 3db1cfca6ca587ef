// SPDX-License-Identifier: Apache-2.0
#include "wire/transfer.h"

#include "api/vdi.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "wire/auth.h"
#include "wire/http.h"

enum { HEAD_MS = 60000 };

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

static void export_vdi(struct task *t, struct request *req)
{
	struct VDI_row *vdi = vdi_named(t, req);
	int64_t size = vdi ? vdi_size(t, vdi->row.ref) : -1;
	if (size < 0) {
		refuse(t, req);
		return;
	}
	const char *head = str(t,
			       "HTTP/1.0 200 OK\r\n"
			       "Content-Type: application/octet-stream\r\n"
			       "Content-Length: %lld\r\n"
			       "Content-Disposition: attachment; filename=\"%s.raw\"\r\n"
			       "Cache-Control: no-store\r\n"
			       "Connection: close\r\n\r\n",
			       (long long)size, vdi->uuid);
	if (say(t, req, head) == 0)
		vdi_export_raw(t, vdi->row.ref, req->fd);
	note(t, req, "exported", vdi->uuid);
}

void transfer_export_vdi(struct task *t, struct request *req)
{
	if (auth_begin(t, req) < 0)
		return;
	export_vdi(t, req);
	auth_end(t, req);
}

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
