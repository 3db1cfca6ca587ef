// SPDX-License-Identifier: Apache-2.0
/* metadata.h -- VM.snapshot_metadata: a row as text, in XenServer's form.
 *
 *     (('uuid' '6b1c...') ('name__label' 'web') ('tags' ('a' 'b'))
 *      ('platform' (('nx' 'true') ('acpi' '1'))))
 *
 * Keys are database names: a group's first underscore is doubled (name_label: name__label).
 * In quoted text, \ and ' are escaped by \. */
#pragma once

#include "model/model.h"

struct task;

char *metadata_write(struct task *, const struct row *);
/* Sets the row's fields from the text, but for those named in except (NULL ended).  Keys that are no fields
 * are passed over; text of another form fails with INTERNAL_ERROR and changes nothing that is kept. */
int metadata_read(struct task *, const char *text, struct row *, const char *const *except);
/* One field's value, "" when it is not there. */
const char *metadata_value(struct task *, const char *text, const char *field);
