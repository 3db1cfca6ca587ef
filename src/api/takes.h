// SPDX-License-Identifier: Apache-2.0
/* takes.h -- settings of which only some values mean anything here: takes.def.
 *
 * A client that sets something reads it back and relies on it.  So what nothing heeds is refused when it is set, with
 * the reason, and not taken and forgotten.  VALUE_NOT_SUPPORTED [field, value, why]; of a map's key the field is
 * FIELD:KEY. */
#pragma once

#include "model/model.h"

struct task;

/* The row has a new value in the field; of a map, that counts which `before` has not.  Other fields' before is NULL. */
int takes_check(struct task *, const struct row *, const struct field *, const struct map *before);
/* The same of a map that a call has among its arguments, for the field of an object that it makes. */
int takes_check_map(struct task *, const struct class *, const char *field, const struct map *);
/* Has takes.def a row of the field's? */
bool takes_some(const struct class *, const struct field *);
