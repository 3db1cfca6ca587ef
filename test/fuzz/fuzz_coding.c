// SPDX-License-Identifier: Apache-2.0
/* fuzz_coding.c -- any bytes as HTTP's chunks: one that says in what pieces they are asked for, then what comes. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/coding.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n < 1)
		return 0;
	struct task *t = task_new(NULL, "fuzz");
	struct coding c = { 0 };
	size_t piece = (size_t)data[0] + 1, total = 0;
	char *to = talloc_array(t, char, piece);
	int fd = memfd_create("body", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, data + 1, n - 1) == (ssize_t)n - 1 &&
	      lseek(fd, 0, SEEK_SET) == 0);
	ssize_t got;
	while ((got = coding_read(t, fd, &c, to, piece)) == (ssize_t)piece)
		total += piece;
	total += got > 0 ? (size_t)got : 0;
	CHECK(total < n);
	CHECK(got < 0 ? t->code == IMPORT_ERROR && !c.over
		      : c.over && coding_read(t, fd, &c, to, piece) == 0);
	close(fd);
	talloc_free(t);
	return 0;
}
