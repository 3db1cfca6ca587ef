// SPDX-License-Identifier: Apache-2.0
/* layer.h -- a layer as storage describes one to a VMM. */
#pragma once

#include "base/json.h"

static inline json_t *qcow2_layer(struct task *t, const char *node, const char *file,
				  const char *below, bool frozen)
{
	json_t *j = json_pack("{s:s, s:s, s:b, s:s?, s:{s:s, s:s, s:{s:b}}}", "driver", "qcow2",
			      "node-name", node, "read-only", frozen, "backing", below, "file",
			      "driver", "file", "filename", file, "cache", "direct", true);
	if (!below)
		json_object_set_new(j, "backing", json_null());
	return json_own(t, j);
}
