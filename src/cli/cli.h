// SPDX-License-Identifier: Apache-2.0
/* cli.h -- the server's side of the commands.
 *
 * Each family of commands is a file with its table on top: a row says what a command takes, what
 * it is for, and which function does it.  A function gets what was typed as a map; it fails with
 * the task's error (an answer of the API) or with one of its own, cli_fail(); both are shown in
 * one place (cli.c).  It prints with cli_print() what is told, and with cli_value() and
 * cli_record() what was asked for: --minimal leaves nothing else. */
#pragma once

#include "api/call.h"
#include "api/uninstall.h"
#include "base/task.h"
#include "cli/records.h"
#include "cli/thin.h"
#include "db/db.h"

struct cli;
typedef int command_fn(struct cli *);

enum {
	STANDARD = 1,      /* among the common ones of `help` */
	VM_SELECTORS = 2,  /* takes vm=, uuid= and every column of a VM as a filter */
	ONE_VM = 4,        /* --multiple makes no sense */
	TEMPLATES_TOO = 8, /* templates and snapshots can be selected */
	FILTERS = 16,      /* takes every column of the view as a filter */
	EXACT = 32,        /* refuses a parameter that it does not know */
	FREE = 64,         /* takes whatever is typed */
};

struct command {
	const char *name;
	command_fn *run;
	int flags;
	const char
		*required; /* parameters, separated by commas; "other-config:" stands for any key */
	const char *optional;
	const char *help;
};

/* The families; each ends with a row without a name. */
extern const struct command commands_host[], commands_vm_disk[];
extern const struct command commands_cd[], commands_vm[], commands_install[], commands_snapshot[],
	commands_tree[], commands_vdi[], commands_vbd[], commands_network[], commands_sr[],
	commands_vmss[], commands_blob[], commands_subject[], commands_complete[], commands_misc[];
/* What every view has: their names are behind "<view>-". */
extern const struct command commands_generic[];

struct cli {
	struct task *t;
	struct thin *thin;
	const char *name; /* the command as typed */
	const struct command *command;
	const struct view *view; /* of a generic command, else that of VMs */
	struct list words;       /* behind the command, without key=value: of `help` */
	struct map args;
	bool minimal, notes;
	struct list values;  /* what --minimal prints at the end */
	const char *failure; /* what went wrong, when it is not the task's error */
};

struct cli_peer {
	const char *name; /* where it is, for the log */
	bool trusted;     /* needs no password */
	bool notes;       /* shows them to a person */
};
/* Serves one POST /cli on fd: greets, logs in, runs the command, prints its errors, ends the client.  fd stays
 * the caller's. */
void cli_serve(struct task *, int fd, const char *body, size_t n, const struct cli_peer *);

/* ---- the commands that there are ---- */

/* Calls each(view, command) for all; view is NULL for what is not generic. */
void cli_each_command(void *arg,
		      void (*each)(void *arg, const struct view *, const struct command *));
/* NULL: unknown; ret_view as above. */
const struct command *cli_find_command(const char *name, const struct view **ret_view);

/* Why there is no such command here although XenServer has one; NULL: it has none that we know of. */
const char *cli_absent(const char *name);
/* The command whose name is nearly what was typed; NULL: none is. */
const char *cli_nearest(struct cli *);

/* ---- errors ---- */

/* "Error: ..." for the user; returns -1. */
int cli_fail(struct cli *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define cli_fail_ptr(c, ...) (cli_fail((c), __VA_ARGS__), NULL)
/* The present failure in one or more lines; "" when there is none. */
const char *cli_failure(struct cli *);
void cli_forgive(struct cli *);

/* ---- arguments ---- */

/* Is it a parameter of the command's own? */
bool cli_takes(struct cli *, const char *name);
/* NULL when it was not given. */
const char *cli_arg(struct cli *, const char *name);
const char *cli_arg_or(struct cli *, const char *name, const char *otherwise);
/* These leave *ret when it was not given. */
int cli_bool(struct cli *, const char *name, bool *ret);
int cli_size(struct cli *, const char *name, int64_t *ret);
/* The keys and values given as prefix:key=value. */
struct map cli_map(struct cli *, const char *prefix);
/* The object whose uuid the parameter holds; NULL with the error.  (class##_row is the struct.) */
#define cli_object(c, class, param)                                                                \
	((struct class##_row *)cli_object_row((c), &class_##class, (param)))
struct row *cli_object_row(struct cli *, const struct class *, const char *param);

/* ---- output ---- */

void cli_print(struct cli *, const char *text);
/* On standard error, for a person, and not with --minimal: figures, and what to do next. */
void cli_note(struct cli *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* On standard error, whoever reads it: what the command left out, though it did the rest. */
void cli_warn(struct cli *, const char *text);
void cli_value(struct cli *, const char *text);
/* The uuid of the object. */
int cli_uuid(struct cli *, const struct class *, const char *ref);
/* Asks `Type 'yes' to continue`. */
bool cli_confirmed(struct cli *);

/* ---- calls and transfers ---- */

/* Runs a call of the API; it is cancelled when the user goes away. */
#define cli_call(c, name, args) cli_run_call((c), &call_##name, (args))
int cli_run_call(struct cli *, const struct call *, void *args);
/* A path for the client's own connection: uri?session_id=...&key=value, the last two as given. */
const char *cli_path(struct cli *, const char *uri, const char *key, const char *value);
/* A task for such a connection, to be named as task_id=; NULL: failed.  It is to be ended whatever comes of it. */
const char *cli_task_begin(struct cli *, const char *name);
void cli_task_end(struct cli *, const char *ref);
/* The result of thin_get(), thin_put() or thin_connect(): what failed the client has told its user. */
int cli_transferred(struct cli *, int result);

/* ---- choosing columns and objects (select.c) ---- */

struct columns {
	size_t n;
	const struct column **v; /* in the view's order */
	bool all;                /* by params=all: costly ones are not worked out */
};
/* The columns that the parameter (defaults when it is not given) names. */
int select_columns(struct cli *, const struct view *, const char *param, const char *defaults,
		   struct columns *ret);
void cli_record(struct cli *, const struct columns *, const struct row *);

struct filter {
	const struct column *column;
	const char *key; /* of a map; NULL: the whole value */
	const char *value;
	bool differs;  /* matches what is not equal */
	bool contains; /* matches sets that hold the value */
};
struct filters {
	size_t n;
	struct filter *v;
};
/* Adds "name=value", "name:key=value", "name:contains=value". */
int filter_add(struct cli *, const struct view *, const char *name, const char *value,
	       struct filters *);
/* From all arguments that the command has no other use for. */
int select_filters(struct cli *, const struct view *, struct filters *ret);
bool filters_match(struct task *, const struct filters *, const struct row *);
/* The rows that may match: all of the class, or those found quickly.  NULL ended. */
struct row **filters_candidates(struct task *, const struct view *, const struct filters *);

/* Runs op on every selected VM; a failure with --multiple does not stop the others. */
int for_vms(struct cli *, int (*op)(struct cli *, struct VM_row *));
/* The host that the parameter names by uuid or name; the only one there is for NULL. */
struct host_row *select_host(struct cli *, const char *value);
/* The SR that sr-uuid or sr-name-label names; *ret NULL when neither is given. */
int select_sr(struct cli *, struct SR_row **ret);

/* ---- what families share ---- */

/* Asks first, except with --force (install.c). */
int doomed_uninstall(struct cli *, struct doomed *);
/* Clones as new-name-label says; sets new-name-description and prints the uuid (vm.c). */
int clone_vm(struct cli *, struct VM_row *);
/* Notes what the VM's newest message of that name says; a warning is for all. */
void note_message(struct cli *, const char *vm_uuid, const char *name);
/* Makes it halted, with --force only (vm.c). */
int reset_powerstate(struct cli *, struct VM_row *);
/* Resumes, and notes what the message of it says. */
int resume_vm(struct cli *, struct VM_resume *);
/* The same with full copies, in the SR that sr-uuid names. */
int copy_vm(struct cli *, struct VM_row *);
int show_new_vm(struct cli *, const char *ref);
/* The drives of a VM, with what is in them, as `Disk 0 VBD:` blocks (vbd.c). */
int list_disks(struct cli *, struct VM_row *);
int list_cds(struct cli *, struct VM_row *);
