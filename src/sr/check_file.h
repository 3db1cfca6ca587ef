// SPDX-License-Identifier: Apache-2.0
/* check_file.h -- looks after the files of layout_file: which there are, and whether their tables are in
 * order.  The contract of each is that of the member of struct layout by its name. */
#pragma once

#include "sr/sr.h"

int check_file_list(struct task *, const struct sr *, struct list *ret_ids,
		    struct list *ret_unfinished);
int check_file_discard(struct task *, const struct sr *, const char *id);
int check_file(struct task *, const struct sr *, const char *id, bool repair, struct sr_check *ret);
