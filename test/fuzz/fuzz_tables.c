// SPDX-License-Identifier: Apache-2.0
/* fuzz_tables.c -- any bytes as an image whose header may be sound: 4 of how many zeros are behind them in the file,
 * in sectors, then the file. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/task.h"
#include "base/text.h"
#include "sr/header.h"
#include "unit/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void walk(struct task *t, int fd, uint64_t size, const struct header *h)
{
	struct tables all, some;
	CHECK(tables_walk(t, fd, size, h, true, &all) == 0);
	CHECK(tables_walk(t, fd, size, h, false, &some) == 0);
	CHECK(!some.wrong || all.wrong); /* the first asks for more */
	CHECK(all.wrong || all.unsure == NOWHERE || (all.unsure < h->size && size % 512));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint32_t sectors;
	struct header h;
	if (n < sizeof sectors)
		return 0;
	memcpy(&sectors, data, sizeof sectors);
	data += sizeof sectors;
	n -= sizeof sectors;
	uint64_t size = n + (uint64_t)sectors * 512;
	if (header_read(data, n, size, &h))
		return 0;
	struct task *t = task_new(NULL, "fuzz");
	int fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n && ftruncate(fd, (off_t)size) == 0);
	walk(t, fd, size, &h);
	close(fd);
	talloc_free(t);
	return 0;
}
