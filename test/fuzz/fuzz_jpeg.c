// SPDX-License-Identifier: Apache-2.0
/* fuzz_jpeg.c -- any bytes as the picture of a screen, and any behind the two that none is without. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "unit/check.h"
#include "wire/jpeg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void picture(const char *before, size_t length, const uint8_t *data, size_t size)
{
	struct task *t = task_new(NULL, "fuzz");
	FD_SCOPE int fd = memfd_create("ppm", MFD_CLOEXEC);
	const void *jpeg;
	size_t n;
	CHECK(fd >= 0 && write(fd, before, length) == (ssize_t)length);
	CHECK(write(fd, data, size) == (ssize_t)size);
	if (jpeg_of_ppm(t, fd, &jpeg, &n) == 0) {
		const unsigned char *bytes = jpeg;
		CHECK(n > 4 && bytes[0] == 0xff && bytes[1] == 0xd8);
		CHECK(bytes[n - 2] == 0xff && bytes[n - 1] == 0xd9);
	}
	talloc_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	picture("", 0, data, size);
	picture("P6\n", 3, data, size);
	return 0;
}
