// SPDX-License-Identifier: Apache-2.0
#include "wire/transfer.h"

#include "api/image.h"
#include "api/vdi_transfer.h"
#include "api/words.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "wire/auth.h"
#include "wire/http.h"

static int say(struct task *t, struct request *req, const char *text)
{
	return io_write(t, req->fd, text, strlen(text), delay_ms(DELAY_HTTP_WRITE));
}

/* The object that a word of the query names by its uuid or ref. */
static struct row *named(struct task *t, struct request *req, const struct class *class,
			 const char *key)
{
	const char *name = map_get(&req->query, key);
	if (!name)
		return fail_ptr(t, INVALID_VALUE, key, "");
	return starts_with(name, "OpaqueRef:") ? db_get_row(t, class, name)
					       : db_by_uuid_row(t, class, name);
}

static const struct image_format *format_named(struct task *t, struct request *req)
{
	const char *format = map_get(&req->query, "format"), *base = map_get(&req->query, "base");
	if (base)
		return fail_ptr(t, VALUE_NOT_SUPPORTED, "base", base,
				"an image is always of a whole disk");
	return image_format(t, format ? format : "raw");
}

static void refuse(struct task *t, struct request *req)
{
	http_refuse(t, req, http_status_of(t), failure_line(t));
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

/* Says 200 only when there is a first byte to send: until then a failure has a status and a reason. */
struct answer {
	struct outlet out;
	struct request *req;
	const char *uuid;
	const struct image_format *format;
	bool begun;
};

static int begin_answer(struct task *t, struct outlet *out, uint64_t length)
{
	struct answer *a = (struct answer *)out;
	a->begun = true;
	return say(t, a->req,
		   str(t,
		       "HTTP/1.0 200 OK\r\n"
		       "Content-Type: %s\r\n"
		       "Content-Length: %llu\r\n"
		       "Content-Disposition: attachment; filename=\"%s.%s\"\r\n"
		       "Cache-Control: no-store\r\n"
		       "Connection: close\r\n\r\n",
		       a->format->content_type, (unsigned long long)length, a->uuid,
		       a->format->name));
}

static void export_vdi(struct task *t, struct request *req)
{
	const struct image_format *format = format_named(t, req);
	struct VDI_row *vdi = format ? (struct VDI_row *)named(t, req, &class_VDI, "vdi") : NULL;
	if (!vdi) {
		refuse(t, req);
		return;
	}
	struct answer answer = { .out = { .fd = req->fd, .begin = begin_answer },
				 .req = req,
				 .uuid = vdi->uuid,
				 .format = format };
	struct vdi_export a = { .vdi = vdi->row.ref, .format = format, .out = &answer.out };
	if (vdi_export(t, &a) == 0)
		io_write(t, req->fd, &answer.out.last, 1, delay_ms(DELAY_HTTP_WRITE));
	else if (!answer.begun)
		refuse(t, req);
	note(t, req, "exported", vdi->uuid);
}

void transfer_export_vdi(struct task *t, struct request *req)
{
	if (auth_begin(t, req, role_vm_admin) < 0)
		return;
	export_vdi(t, req);
	auth_end(t, req);
}

/* ---- in ---- */

static int chosen_format(struct task *t, struct request *req, struct vdi_import *a)
{
	const char *text = map_get(&req->query, "chunked");
	bool chunked = false;
	if (text && !text_bool(text, &chunked))
		return fail(t, INVALID_VALUE, "chunked", text);
	a->format = format_named(t, req);
	if (!a->format || !chunked)
		return a->format ? 0 : -1;
	if (!streq(a->format->name, "raw"))
		return fail(t, VALUE_NOT_SUPPORTED, "chunked", text,
			    "only raw bytes come in pieces");
	a->format = &image_chunked;
	return 0;
}

/* A client that does not know how much it will send says a PiB, and then ends the connection. */
static uint64_t length_of(const struct request *req)
{
	static const int64_t pib = (int64_t)1 << 50;
	return req->body_length < 0 || req->body_length == pib ? STREAM_OPEN
							       : (uint64_t)req->body_length;
}

static struct image_source source_of(const struct request *req)
{
	return (struct image_source){
		.in = req->fd,
		.length = length_of(req),
		.coded = req->chunked,
		.unsaid = !map_get(&req->query, "format"),
	};
}

/* A disk that is there, or an SR for a new one, whose size has to be known. */
static int chosen_place(struct task *t, struct request *req, struct vdi_import *a)
{
	const char *key = map_get(&req->query, "sr_uuid") ? "sr_uuid" : "sr_id";
	bool new = !map_get(&req->query, "vdi") && map_get(&req->query, key);
	struct row *place = new ? named(t, req, &class_SR, key) : named(t, req, &class_VDI, "vdi");
	a->vdi = new || !place ? NULL_REF : place->ref;
	a->sr = new &&place ? place->ref : NULL_REF;
	if (place && new && (length_of(req) == STREAM_OPEN || a->format == &image_chunked))
		return fail(t, INVALID_VALUE, "Content-Length",
			    "a new disk is as large as an image of a known length says");
	return place ? 0 : -1;
}

/* Of a disk that was there; a new one is gone. */
static const char *what_remains(const struct vdi_import *a)
{
	if (!ref_is_null(a->sr))
		return "";
	return a->touched ? "The disk's content is undefined.\n" : "The disk is as it was.\n";
}

static const char *verdict(struct task *t, const struct vdi_import *a)
{
	if (t->code != NO_ERROR)
		return str(t, "Error: %s\n%s", failure_line(t), what_remains(a));
	struct VDI_row *vdi = ref_is_null(a->sr) ? NULL : db_seek(t, VDI, a->result);
	return vdi ? str(t, "%s\n", vdi->uuid) : "";
}

static void import_body(struct task *t, struct request *req, struct vdi_import *a)
{
	a->source = source_of(req);
	if (http_begin(t, req) < 0)
		return;
	if (req->body_length == 0)
		fail(t, IMPORT_ERROR, "there is nothing to import");
	else
		vdi_import(t, a);
	const char *text = verdict(t, a);
	const char *named_vdi = map_get(&req->query, "vdi");
	note(t, req, "imported", named_vdi ? named_vdi : a->result);
	say(t, req, text);
}

static void import_vdi(struct task *t, struct request *req)
{
	struct vdi_import a = { .result = NULL_REF };
	if (chosen_format(t, req, &a) < 0 || chosen_place(t, req, &a) < 0)
		refuse(t, req);
	else
		import_body(t, req, &a);
}

void transfer_import_vdi(struct task *t, struct request *req)
{
	if (auth_begin(t, req, role_vm_admin) < 0)
		return;
	import_vdi(t, req);
	auth_end(t, req);
}
