// SPDX-License-Identifier: Apache-2.0
/* image_tool.h -- qemu-img, run so that a failure of its is never taken for a success. */
#pragma once

#include "base/task.h"

struct sr;

struct image_tool {
	const struct sr *sr;     /* its files are in it */
	const char *const *argv; /* from "qemu-img" on */
	enum code code;       /* when it fails, but for want of room: SR_BACKEND_FAILURE_44 then */
	const char *sentence; /* and this, with what it complained of */
	bool slow; /* it was told -p: progress goes to the task, and there is no deadline */
};

int image_tool(struct task *, const struct image_tool *);
