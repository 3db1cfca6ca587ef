// SPDX-License-Identifier: Apache-2.0
#include "wire/blob.h"

#include "api/blob.h"
#include "api/words.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "db/db.h"
#include "wire/auth.h"
#include "wire/http.h"

static void refuse(struct task *t, struct request *req)
{
	http_refuse(t, req, http_status_of(t), failure_line(t));
}

static const struct blob_row *named(struct task *t, struct request *req)
{
	const char *ref = map_get(&req->query, "ref"), *uuid = map_get(&req->query, "uuid");
	if (!ref && !uuid)
		return fail_ptr(t, INVALID_VALUE, "uuid", "");
	return ref ? db_get(t, blob, ref) : db_by_uuid(t, blob, uuid);
}

/* A browser that is led here must not take it for a page of this server's. */
static void send(struct task *t, struct request *req, const struct blob_row *b)
{
	static const char extra[] = "Content-Disposition: attachment\r\n"
				    "Content-Security-Policy: sandbox; default-src 'none'\r\n";
	size_t n;
	const char *bytes = blob_get(t, b, &n);
	if (bytes)
		http_answer(t, req, 200, b->mime_type, extra, bytes, n);
	else
		refuse(t, req);
}

/* Who may not see it is not told whether it is there. */
void blob_serve_get(struct task *t, struct request *req)
{
	const struct blob_row *b = named(t, req);
	if (b && b->public) {
		send(t, req, b);
		return;
	}
	struct task *own = task_part(t);
	if (auth_begin(own, req, role_read_only) < 0) {
		talloc_free(own);
		return;
	}
	if (b)
		send(t, req, b);
	else
		refuse(t, req);
	auth_end(own, req);
	talloc_free(own);
}

static void take(struct task *t, struct request *req, const struct blob_row *b)
{
	size_t n;
	const char *bytes = http_begin(t, req) < 0 ? NULL : http_body(t, req, BLOB_LIMIT, &n);
	if (!bytes || blob_put(t, b->row.ref, bytes, n) == 0)
		return;
	const char *verdict = str(t, "Error: %s\n", failure_line(t));
	io_write(t, req->fd, verdict, strlen(verdict), delay_ms(DELAY_HTTP_WRITE));
}

void blob_serve_put(struct task *t, struct request *req)
{
	if (auth_begin(t, req, role_vm_power_admin) < 0)
		return;
	const struct blob_row *b = named(t, req);
	if (!b)
		refuse(t, req);
	else if (req->body_length < 0 || req->body_length > BLOB_LIMIT)
		http_refuse(t, req, req->body_length < 0 ? 411 : 413,
			    str(t, "A blob has a Content-Length of at most %d bytes.", BLOB_LIMIT));
	else
		take(t, req, b);
	auth_end(t, req);
}
