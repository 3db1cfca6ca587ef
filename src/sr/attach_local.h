// SPDX-License-Identifier: Apache-2.0
/* attach_local.h -- an SR in a local directory: device_config has its `location`; and, once,
 * `take-over-from`, the uuid of the host that holds the SR and is lost. */
#pragma once

#include "sr/sr.h"

#define TAKE_OVER "take-over-from"

/* The directory is the SR's own: the file `sr-uuid` in it says so. */
extern const struct attach attach_local;
/* It is somebody else's, and may be so for several SRs: nothing is written into it. */
extern const struct attach attach_borrowed;
