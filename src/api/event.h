// SPDX-License-Identifier: Apache-2.0
/* event.h -- what an event tells of. */
#pragma once

#include "model/model.h"

struct task;

/* The object as it is now, on t; NULL: the event is of its end, or it has gone since. */
const struct row *event_object(struct task *, const struct event *);
