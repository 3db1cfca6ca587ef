// SPDX-License-Identifier: Apache-2.0
/* attach_local.h -- an SR in a local directory: device_config has its `location`.  The file `sr-uuid` in
 * it says whose it is. */
#pragma once

#include "sr/sr.h"

extern const struct attach attach_local;
