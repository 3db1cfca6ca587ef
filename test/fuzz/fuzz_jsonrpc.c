// SPDX-License-Identifier: Apache-2.0
/* fuzz_jsonrpc.c -- what a user who may only look posts as JSON-RPC: the envelope, the parameters of each call, queries,
 * subscriptions, and the answers, against a database of a few objects. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/role.h"
#include "api/settings.h"
#include "api/tasks.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/vmm.h"
#include "wire/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	PATIENCE_MS = 20, /* of what waits for events */
	END_MS = 10000,   /* of calls behind their answers, when it ends */
};

static const char session[] = "OpaqueRef:session";

static char folder[] = "/tmp/fuzz_jsonrpc.XXXXXX";

static void tidy(void)
{
	static const char *const files[] = { "state.db", "state.db-wal", "state.db-shm",
					     "audit.log", "refused.log" };
	char path[64];
	tasks_close(END_MS);
	db_close();
	for (size_t i = 0; i < COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s", folder, files[i]);
		unlink(path);
	}
	rmdir(folder);
}

static void fill(struct task *t)
{
	DB_SCOPE(t);
	struct session_row *s = row_new(t, session);
	struct VM_row *vm = row_new(t, VM);
	struct VDI_row *vdi = row_new(t, VDI);
	s->row.ref = session;
	s->role = "read-only";
	s->auth_user_name = "reader";
	s->last_active = time_now(s);
	vm->row.ref = "OpaqueRef:vm";
	vm->name_label = "a <b> & \"c\"";
	vdi->row.ref = "OpaqueRef:vdi";
	if (db_insert(t, &s->row) < 0 || db_insert(t, &vm->row) < 0 ||
	    db_insert(t, &vdi->row) < 0 || db_commit(t) < 0)
		abort();
}

static void set_up(void)
{
	struct task *t = task_new(NULL, "fuzz");
	settings.state = mkdtemp(folder);
	settings.vmm = &vmm_fake;
	settings.version = "fuzz";
	if (!settings.state || db_open(t, str(t, "%s/state.db", folder)) < 0 || roles_open(t) < 0)
		abort();
	fill(t);
	talloc_free(t);
	atexit(tidy);
}

/* The session is right always, so that there is more behind it. */
static void log_in(json_t *call)
{
	json_t *params = json_object_get(call, "params");
	if (json_array_size(params))
		json_array_set_new(params, 0, json_string(session));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	if (!ready)
		set_up();
	ready = true;
	struct task *t = task_new(NULL, "fuzz");
	char *body = talloc_strndup(t, (const char *)data, size);
	if (json_shape(body, strlen(body)).values > RPC_VALUES_LIMIT) {
		talloc_free(t);
		return 0;
	}
	struct task *reader = task_part(t);
	json_t *call = jsonrpc_read(reader, body, strlen(body));
	const char *method = json_string_value(json_object_get(call, "method"));
	t->deadline_ms = clock_ms() + PATIENCE_MS;
	t->peer = "fuzz";
	/* Not those that ask PAM, or end the session. */
	if (call && !strstr(method, "session.log")) {
		log_in(call);
		struct buffer text = jsonrpc_answer(t, reader, call);
		free(text.text);
	}
	talloc_free(t);
	return 0;
}
