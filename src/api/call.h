// SPDX-License-Identifier: Apache-2.0
/* call.h -- the calls of the API, as the CALL rows of the class tables declare them.
 *
 * CALL(VM, snapshot, REF, VM, ...) becomes
 *
 *     struct VM_snapshot { const char *vm; const char *new_name; struct list ignore_vdis;
 *                          const char *result; };
 *     int VM_snapshot(struct task *, struct VM_snapshot *);
 *     extern const struct call call_VM_snapshot;
 *
 * Front ends do not run the functions themselves but call(t, VM_snapshot, &args): it gives the call a row
 * of class task, with progress, cancel and result, and undoes what a failing call has begun. */
#pragma once

#include "api/role.h"
#include "model/model.h"

struct task;

struct arg {
	const char *name;
	enum kind kind;
	const char *of; /* enumeration or class; "_" for none */
	size_t offset;
	bool optional;
};

struct call {
	const char *name; /* "VM.snapshot" */
	enum kind result;
	const char *of;       /* of the result */
	enum role role;       /* the least that may */
	size_t size;          /* of the arguments */
	size_t result_offset; /* of the member `result` in them */
	int (*run)(struct task *, void *args);
	const struct arg *(*args)(void); /* ended by one without a name; NULL: no call of the API */
	bool waited;                     /* ... but a user who waits for it has begun it */
};
extern const struct call *const all_calls[]; /* NULL ended */

#define call(t, name, args) api_call((t), &call_##name, (args))

/* Runs the call on t, whose session is set and has the role, else RBAC_PERMISSION_DENIED.  On failure all that the
 * call did is undone.  The row goes when its caller has the result, or the error; those of transfers over HTTP,
 * of the daemon's own work when it failed, and one that was the client's to begin with, stay (tasks.h).  Calls
 * that only look, log in or change a task get no row: to wait for changes must not be one. */
int api_call(struct task *t, const struct call *, void *args);

/* Can its result stand in a row of class task? */
bool call_has_async(const struct call *);

/* The same in a thread of its own; returns at once the ref of the call's row, on t.  args are the caller's, on
 * args_task, which is taken over and freed when the call has ended. */
const char *api_call_async(struct task *t, const struct call *, struct task *args_task, void *args);

#define ARG(kind, of, name) CTYPE_##kind(of) name;
#define OPT(kind, of, name) CTYPE_##kind(of) name;
#define CALL(class, name, kind, of, role, doc, ...)                                                \
	struct class##_##name                                                                      \
	{                                                                                          \
		__VA_ARGS__                                                                        \
		CTYPE_##kind(of) result;                                                           \
	};                                                                                         \
	int class##_##name(struct task *, struct class##_##name *);                                \
	extern const struct call call_##class##_##name;
#include "model/calls.def"
