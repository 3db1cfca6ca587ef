// SPDX-License-Identifier: Apache-2.0
/* record.h -- fields of objects as the API shows and sets them: the stored ones, the links
 * (VM.VBDs) and what is worked out when read (allowed_operations). */
#pragma once

#include <jansson.h>

#include "model/model.h"

struct task;

/* A field of any access as text: sets and maps as JSON.  On t. */
const char *record_text(struct task *, const struct row *, const struct field *);
/* The members of a set field. */
struct list record_list(struct task *, const struct row *, const struct field *);

/* What clients read of a stored field, as a row, on t: of a disk sm_config also has `vhd-parent`, the uuid of the layer
 * below, by which clients of XenServer follow a chain. */
const struct row *record_shown(struct task *, const struct row *, const struct field *);

/* Is there a setter? */
bool record_is_settable(const struct class *, const struct field *);
/* Sets all members of an object that are fields which can be set, in one transaction; others are passed over. */
int record_set_all(struct task *, const struct class *, const char *ref, const json_t *record);

/* Sets a RW field (or one that has a setter of its own) of the object, checking the value: what
 * set_<field>, add_to_<field>, remove_from_<field>, add_<field>, remove_<field> do.
 * A field that cannot be set fails with MESSAGE_METHOD_UNKNOWN. */
int record_set(struct task *, const struct class *, const char *ref, const char *field,
	       const char *text);
int record_map_add(struct task *, const struct class *, const char *ref, const char *field,
		   const char *key, const char *value);
int record_map_remove(struct task *, const struct class *, const char *ref, const char *field,
		      const char *key);
int record_set_add(struct task *, const struct class *, const char *ref, const char *field,
		   const char *value);
int record_set_remove(struct task *, const struct class *, const char *ref, const char *field,
		      const char *value);
