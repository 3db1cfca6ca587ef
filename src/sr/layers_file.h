// SPDX-License-Identifier: Apache-2.0
/* layers_file.h -- layers of layout_file that become one, and volumes that share their blocks.  The
 * contract of each is that of the member of struct layout by its name. */
#pragma once

#include "sr/sr.h"

const char *layers_file_link(const void *ctx, const char *id);
int layers_file_relink(struct task *, const struct sr *, const char *id, const char *parent);
int layers_file_merge(struct task *, const struct sr *, const struct sr_merge *);
int layers_file_clone(struct task *, const struct sr *, const char *id, const char *new_id);
int layers_file_extents(struct task *, const struct sr *, const char *id, uint64_t limit,
			uint64_t *ret);
