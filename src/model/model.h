// SPDX-License-Identifier: Apache-2.0
/* model.h -- the objects of the API: plain structs made from the .def tables, and the same
 * tables as data for everything generic (SQL, records, parameters of xe, documentation).
 *
 * A class table has one row per field or call:
 *
 *     FIELD(name, kind, of, access, default, doc)   stored; access: RW settable by anybody
 *                                                   allowed, SRO given at creation, DRO ours
 *     LINK(name, class, field, doc)                 the set of class's rows whose field is me
 *     COMPUTED(name, kind, of, doc)                 worked out when read (api/record)
 *     PRIVATE(name, kind, of, default, doc)         stored, but no part of the API
 *     CALL(class, name, kind, of, role, doc, ARG(kind, of, name)...)   result kind, the least role that may
 *                                                   (roles.def), arguments; OPT() are those that a client
 *                                                   may leave out
 *
 * `of` names the enumeration or the class, `_` where there is none.  VM.def becomes
 * struct VM_row, with a member per stored field, and class_VM. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/text.h"

struct task;

enum kind {
	VOID,
	EVENT_BATCH, /* what event.from answers */
	EVENT_SET,   /* ... and event.next: its events alone */
	RECORD,      /* the row of an object of any class */
	RECORDS,     /* rows of a class, NULL ended: a map from their refs */
	STRING,
	INT,
	FLOAT,
	BOOL,
	DATETIME,
	ENUM,
	REF,
	STRING_SET,
	INT_SET,
	ENUM_SET,
	REF_SET,
	STRING_MAP, /* string -> string */
	ENUM_MAP,   /* string -> enum */
	REF_MAP,    /* string -> ref */
	KEYED_MAP,  /* enum -> string */
	BYREF_MAP,  /* ref -> string */
	COUNT_MAP,  /* string -> int */
	INT_INT_MAP,
	INT_FLOAT_MAP,
	INT_SET_MAP, /* int -> string set */
};

enum access { RW, SRO, DRO, LINKED, WORKED_OUT, HIDDEN };

/* The C type of each kind. */
#define CTYPE_VOID(of) char
#define CTYPE_EVENT_BATCH(of) struct event_batch *
#define CTYPE_EVENT_SET(of) struct event_batch *
#define CTYPE_RECORD(of) const struct row *
#define CTYPE_RECORDS(of) struct row **
#define CTYPE_STRING(of) const char *
#define CTYPE_INT(of) int64_t
#define CTYPE_FLOAT(of) double
#define CTYPE_BOOL(of) bool
#define CTYPE_DATETIME(of) const char *
#define CTYPE_ENUM(of) enum of
#define CTYPE_REF(of) const char *
#define CTYPE_STRING_SET(of) struct list
#define CTYPE_INT_SET(of) struct list
#define CTYPE_ENUM_SET(of) struct list
#define CTYPE_REF_SET(of) struct list
#define CTYPE_STRING_MAP(of) struct map
#define CTYPE_ENUM_MAP(of) struct map
#define CTYPE_REF_MAP(of) struct map
#define CTYPE_KEYED_MAP(of) struct map
#define CTYPE_BYREF_MAP(of) struct map
#define CTYPE_COUNT_MAP(of) struct map
#define CTYPE_INT_INT_MAP(of) struct map
#define CTYPE_INT_FLOAT_MAP(of) struct map
#define CTYPE_INT_SET_MAP(of) struct map

/* enum vm_power_state { vm_power_state_Halted, ... }; */
#define ENUM(name) enum name {
#define VALUE(name, value) name##_##value,
#define END(name)                                                                                  \
	}                                                                                          \
	;
#include "model/enums.def"

struct field {
	const char *name;
	enum kind kind;
	const char *of; /* enumeration or class; "_" for none */
	enum access access;
	const char *def; /* default, as text */
	const char *doc;
	size_t offset;   /* in the row; stored fields only */
	const char *via; /* LINK: the field of class `of` that points here */
};

struct class
{
	const char *name;
	size_t size;
	const struct field *fields; /* ended by one without a name */
};

/* What every row begins with. */
struct row {
	const struct class *class;
	const char *ref;
	int64_t gen;  /* generation of the last write; 0: not stored yet */
	int64_t born; /* generation of the first one */
};

#define CLASS(name) extern const struct class class_##name;
#include "model/classes.def"
extern const struct class *const classes[]; /* NULL ended */

#define KEEP_COLUMNS
#define FIELD(name, kind, of, access, def, doc) CTYPE_##kind(of) name;
#define PRIVATE(name, kind, of, def, doc) CTYPE_##kind(of) name;
#define LINK(name, class, field, doc)
#define COMPUTED(name, kind, of, doc)
#define CALL(class, name, kind, of, role, doc, ...)
struct session_row {
	struct row row;
#include "model/session.def"
};
struct role_row {
	struct row row;
#include "model/role.def"
};
struct subject_row {
	struct row row;
#include "model/subject.def"
};
struct user_row {
	struct row row;
#include "model/user.def"
};
struct secret_row {
	struct row row;
#include "model/secret.def"
};
struct host_metrics_row {
	struct row row;
#include "model/host_metrics.def"
};
struct host_cpu_row {
	struct row row;
#include "model/host_cpu.def"
};
struct SM_row {
	struct row row;
#include "model/SM.def"
};
struct task_row {
	struct row row;
#include "model/task.def"
};
struct pool_row {
	struct row row;
#include "model/pool.def"
};
struct host_row {
	struct row row;
#include "model/host.def"
};
struct VM_row {
	struct row row;
#include "model/VM.def"
};
struct VM_metrics_row {
	struct row row;
#include "model/VM_metrics.def"
};
struct VM_guest_metrics_row {
	struct row row;
#include "model/VM_guest_metrics.def"
};
struct VBD_row {
	struct row row;
#include "model/VBD.def"
};
struct VBD_metrics_row {
	struct row row;
#include "model/VBD_metrics.def"
};
struct VDI_row {
	struct row row;
#include "model/VDI.def"
};
struct VIF_row {
	struct row row;
#include "model/VIF.def"
};
struct VIF_metrics_row {
	struct row row;
#include "model/VIF_metrics.def"
};
struct network_row {
	struct row row;
#include "model/network.def"
};
struct PIF_row {
	struct row row;
#include "model/PIF.def"
};
struct PIF_metrics_row {
	struct row row;
#include "model/PIF_metrics.def"
};
struct VTPM_row {
	struct row row;
#include "model/VTPM.def"
};
struct console_row {
	struct row row;
#include "model/console.def"
};
struct SR_row {
	struct row row;
#include "model/SR.def"
};
struct PBD_row {
	struct row row;
#include "model/PBD.def"
};
struct message_row {
	struct row row;
#include "model/message.def"
};
struct blob_row {
	struct row row;
#include "model/blob.def"
};
struct VMSS_row {
	struct row row;
#include "model/VMSS.def"
};
/* The one class without rows: each event is made for who asks. */
struct event {
#include "model/event.def"
};
extern const struct class class_event;
#undef KEEP_COLUMNS
#include "model/done.def"

struct event_batch {
	size_t n;
	struct event *v; /* added objects first; snapshot is NULL: read when it is told */
	struct map valid_ref_counts; /* class -> objects there are */
	const char *token;           /* for the next time */
};

/* An unstored row with all defaults, a new ref and a new uuid, on ctx. */
struct row *model_new(const void *ctx, const struct class *);
#define row_new(ctx, class) ((struct class##_row *)model_new((ctx), &class_##class))
/* A copy on ctx with a new ref and uuid, not stored. */
struct row *model_copy(const void *ctx, const struct row *);

const struct class *model_class(const char *name); /* any case; NULL: no such class */
const struct field *model_field(const struct class *, const char *name);
/* Stored in a column of its own? */
bool field_is_stored(const struct field *);
bool field_is_set(const struct field *);
bool field_is_map(const struct field *);

/* Every row has a uuid. */
const char *row_uuid(const struct row *);

/* The text of an enumeration's value, and back (-1: no such value). */
const char *enum_text(const char *name, int value);
int enum_value(const char *name, const char *text);
struct list enum_values(const void *ctx, const char *name);

/* A stored field as the database keeps it: numbers and booleans in decimal and true/false, sets and
 * maps as JSON; and back, with FIELD_TYPE_ERROR or INVALID_VALUE when text is not of the kind. */
const char *field_text(const void *ctx, const struct row *, const struct field *);
int field_parse(struct task *, struct row *, const struct field *, const char *text);
/* The same of what a client says: a number is decimal, and one that there is; a map or a set has
 * MEMBERS_LIMIT members. */
int field_take(struct task *, struct row *, const struct field *, const char *text);
/* That alone, seen without making them.  The row may have more from before, and they may become
 * fewer; NULL: it is not known. */
int field_check_size(struct task *, const struct row *, const struct field *, const char *text);
struct list *field_list(const struct row *, const struct field *);
struct map *field_map(const struct row *, const struct field *);
