// SPDX-License-Identifier: Apache-2.0
#include "wire/console.h"

#include <unistd.h>

#include "api/console.h"
#include "base/io.h"
#include "base/log.h"
#include "base/relay.h"
#include "base/task.h"
#include "db/db.h"
#include "wire/auth.h"
#include "wire/http.h"

static struct VM_row *vm_named(struct task *t, struct request *req)
{
	const char *uuid = map_get(&req->query, "uuid"), *ref = map_get(&req->query, "ref");
	if (ref)
		return db_get(t, VM, ref);
	return uuid ? db_by_uuid(t, VM, uuid) : fail_ptr(t, INVALID_VALUE, "uuid", "");
}

static void attach(struct task *t, struct request *req)
{
	static const char head[] = "HTTP/1.0 200 OK\r\n\r\n";
	struct VM_row *vm = vm_named(t, req);
	int serial;
	if (!vm || vm_serial(t, vm->row.ref, &serial) < 0) {
		http_refuse(t, req, http_status_of(t), task_error(t));
		return;
	}
	log_line(t, "console attached vm=%s peer=\"%s\"", vm->uuid, req->peer);
	t->cancellable = true;
	struct relay_end client = { req->fd, req->fd }, guest = { serial, serial };
	if (io_write(t, req->fd, head, sizeof head - 1, 60000) == 0)
		relay(t, client, guest, -1);
	t->cancellable = false;
	close(serial);
	vm_serial_done(t, vm->row.ref);
	log_line(t, "console left vm=%s peer=\"%s\"", vm->uuid, req->peer);
}

void console_serve(struct task *t, struct request *req)
{
	if (map_get(&req->headers, "upgrade")) {
		http_refuse(t, req, 501, "WebSocket is not implemented.");
		return;
	}
	if (auth_begin(t, req) < 0)
		return;
	attach(t, req);
	auth_end(t, req);
}
