// SPDX-License-Identifier: Apache-2.0
#include "sr/image_tool.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/delay.h"
#include "base/run.h"
#include "base/text.h"
#include "sr/sr.h"

/* What it says when there is no room; its exit status does not tell. */
static const struct {
	const char *text;
	int err;
} full[] = {
	{ "No space left on device", ENOSPC },
	{ "Disk quota exceeded", EDQUOT },
};

/* It ends with 0 even when the tables of an image could not be written as it was closed, and says
 * so, no more.  Other lines are those of the linker and the like. */
static bool complained(const struct run *r)
{
	const char *own = "qemu-img: ";
	for (const char *line = r->ret_err; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (starts_with(line, own) && !starts_with(line + strlen(own), "warning: "))
			return true;
	}
	return false;
}

static int say(struct task *t, const struct image_tool *i, const struct run *r)
{
	for (size_t k = 0; k < COUNT(full); k++)
		if (strstr(r->ret_err, full[k].text))
			return task_fail_errno(t, full[k].err, "qemu-img");
	bool none = r->ret_status == 127 && !*r->ret_err;
	return fail(t, i->code, "",
		    str(t, "%s [opterr=%.2000s]", i->sentence,
			none ? "qemu-img is not installed" : sr_readable(t, i->sr, r->ret_err)),
		    "");
}

/* "    (12.34/100%)\r" and the next one; the last whole one counts. */
static void tell_progress(struct task *t, const char *piece)
{
	const char *last = strrchr(piece, '(');
	if (last && strchr(last, '/'))
		task_progress(t, strtod(last + 1, NULL) / 100);
}

int image_tool(struct task *t, const struct image_tool *i)
{
	struct run r = { .argv = i->argv,
			 .in = -1,
			 .out = -1,
			 .timeout_ms = i->slow ? INT_MAX : delay_ms(DELAY_IMAGE_TOOL),
			 .heard = i->slow ? tell_progress : NULL };
	if (run(t, &r) < 0)
		return -1;
	return r.ret_status || complained(&r) ? say(t, i, &r) : 0;
}
