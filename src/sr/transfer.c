// SPDX-License-Identifier: Apache-2.0
/* transfer.c -- a volume's content as a stream of raw bytes: qemu-nbd reads and writes the qcow2
 * chain, nbdcopy the stream.  Neither ever guesses a format. */
#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/layout_file.h"
#include "sr/sr.h"

/* A transfer as such has no deadline: it is as slow as its peer, ends with it, and can be cancelled. */
enum { A_DAY_MS = 24 * 3600 * 1000 };

static int copy(struct task *t, const char *id, struct run *r)
{
	if (run(t, r) < 0)
		return -1;
	if (r->ret_status == 0)
		return 0;
	if (strstr(r->ret_err, "out of bounds"))
		return fail(t, VDI_TOO_SMALL, id, "the length of what was sent");
	if (strstr(r->ret_err, "No space left"))
		return fail(t, SR_BACKEND_FAILURE_44, "", "There is insufficient space", "");
	return fail(t, SR_BACKEND_FAILURE_46, "",
		    str(t, "The VDI is not available [opterr=%.500s]", r->ret_err), "");
}

int sr_export(struct task *t, const struct sr *sr, const char *id, int out)
{
	struct run r = {
		.argv = RUN_ARGV("nbdcopy", "--", "[", "qemu-nbd", "--read-only", "--format=qcow2",
				 volume_path(t, sr, id), "]", "-"),
		.in = -1,
		.out = out,
		.timeout_ms = A_DAY_MS,
	};
	return copy(t, id, &r);
}

int sr_import(struct task *t, const struct sr *sr, const char *id, int in, uint64_t expected)
{
	struct volume v;
	if (sr->layout->stat(t, sr, id, &v) < 0)
		return -1;
	if (expected > v.virtual_size)
		return fail(t, VDI_TOO_SMALL, id, str(t, "%llu", (unsigned long long)expected));
	struct run r = {
		.argv = RUN_ARGV("nbdcopy", "--flush", "--", "-", "[", "qemu-nbd", "--format=qcow2",
				 "--discard=unmap", "--detect-zeroes=unmap", volume_path(t, sr, id), "]"),
		.in = in,
		.out = -1,
		.timeout_ms = A_DAY_MS,
	};
	if (copy(t, id, &r) < 0)
		return -1;
	return file_sync(t, volume_path(t, sr, id));
}
