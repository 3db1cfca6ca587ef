// SPDX-License-Identifier: Apache-2.0
/* values.h -- values of the API on their way out, one after the other, to whoever writes them as JSON or as
 * XML-RPC; and values that came in, as JSON, on their way into structs. */
#pragma once

#include <jansson.h>

#include "model/model.h"

struct task;

/* An array is begin(), values, end(); a struct is begin(), key() and a value for each member, end(). */
struct values {
	void (*text)(struct values *, const char *); /* STRING, REF, ENUM */
	void (*number)(struct values *, int64_t);
	void (*count)(struct values *, int64_t); /* a number that is told as one of 32 bits */
	void (*real)(struct values *, double);
	void (*truth)(struct values *, bool);
	void (*time)(struct values *, const char *);
	void (*nothing)(struct values *); /* VOID */
	void (*begin)(struct values *, bool is_struct);
	void (*key)(struct values *, const char *);
	void (*end)(struct values *, bool is_struct);
};

/* The member of a struct that a field or a call's argument or result describes; `f->offset` is from base. */
void values_put(struct task *, struct values *, const void *base, const struct field *f);
/* One field of an object, of any access. */
void values_put_field(struct task *, struct values *, const struct row *, const struct field *);
/* All fields that clients see. */
void values_put_record(struct task *, struct values *, const struct row *);
void values_put_list(struct values *, const struct list *);

/* What came in as the text that field_parse() takes, on t: a set or a map as JSON.  Numbers and truths may have
 * come as strings.  NULL: FIELD_TYPE_ERROR [f->name]. */
const char *values_text(struct task *, const json_t *, const struct field *f);
