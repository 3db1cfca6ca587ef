// SPDX-License-Identifier: Apache-2.0
/* query.h -- the language of get_all_records_where:
 *
 *     field "is_a_snapshot" = "true" and not (field "name__label" = "a" or false)
 *
 * and binds tighter than or.  Names are those of the database of XenServer (name__label; name_label does as well), and
 * what is compared is the text of the value: "true", "Running", "OpaqueRef:...".  A field that the class does not
 * have is an error. */
#pragma once

#include <stdbool.h>

#include "model/model.h"

struct query;
struct task;

/* On t; NULL: INVALID_VALUE [expr, text], also what is nested deeper than 100. */
struct query *query_parse(struct task *, const struct class *, const char *text);
bool query_matches(struct task *, const struct query *, const struct row *);
/* A field that has to have this value for the whole to match, so that not all rows need to be read; false: none. */
bool query_needs(const struct query *, const struct field **ret_field, const char **ret_value);
