// SPDX-License-Identifier: Apache-2.0
/* sync.h -- waiting until bytes are on the disk, at places that have a name.
 *
 * With STILLFRAME_SKIP_SYNC=NAME in the environment the place of that name (sync.def) does not wait: then a test
 * of power losses has to find out.  Without it a place costs one comparison. */
#pragma once

#include <stdbool.h>

enum sync_site {
#define SYNC(name, what, why) SYNC_##name,
#include "base/sync.def"
};

/* fsync(); fdatasync(). */
int sync_file(int fd, enum sync_site);
int sync_data(int fd, enum sync_site);

/* Where it is not we who wait. */
bool sync_wanted(enum sync_site);
