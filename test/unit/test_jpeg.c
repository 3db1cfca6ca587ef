// SPDX-License-Identifier: Apache-2.0
/* test_jpeg.c -- a picture survives, and what is none is refused. */
#include "wire/jpeg.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jpeglib.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

enum { WIDTH = 130, HEIGHT = 70 };

static int file_of(struct task *t, const char *head, const void *pixels, size_t n)
{
	int fd = memfd_create("ppm", MFD_CLOEXEC);
	CHECK(fd >= 0 && io_write(t, fd, head, strlen(head), 1000) == 0);
	CHECK(io_write(t, fd, pixels, n, 1000) == 0);
	return fd;
}

/* Red to the left, blue to the right. */
static unsigned char *two_colours(struct task *t)
{
	unsigned char *rgb = talloc_zero_size(t, 3 * WIDTH * HEIGHT);
	for (size_t i = 0; i < WIDTH * HEIGHT; i++)
		rgb[3 * i + (i % WIDTH < WIDTH / 2 ? 0 : 2)] = 255;
	return rgb;
}

static void check_line(const unsigned char *line, size_t x, int red, int blue)
{
	CHECK(abs(line[3 * x] - red) < 16 && line[3 * x + 1] < 16 && abs(line[3 * x + 2] - blue) < 16);
}

static void check_picture(struct task *t, const void *bytes, size_t n)
{
	struct jpeg_error_mgr errors;
	struct jpeg_decompress_struct d = { .err = jpeg_std_error(&errors) };
	unsigned char *line = talloc_size(t, 3 * WIDTH);
	jpeg_create_decompress(&d);
	jpeg_mem_src(&d, bytes, n);
	CHECK(jpeg_read_header(&d, TRUE) == JPEG_HEADER_OK);
	CHECK(d.image_width == WIDTH && d.image_height == HEIGHT);
	CHECK(jpeg_start_decompress(&d));
	for (size_t y = 0; y < HEIGHT; y++) {
		CHECK(jpeg_read_scanlines(&d, &line, 1) == 1);
		check_line(line, 10, 255, 0);
		check_line(line, WIDTH - 10, 0, 255);
	}
	CHECK(jpeg_finish_decompress(&d) && errors.num_warnings == 0);
	jpeg_destroy_decompress(&d);
}

static void test_good(struct task *t)
{
	const void *jpeg;
	size_t n;
	FD_SCOPE int fd = file_of(t, "P6\n130 70\n255\n", two_colours(t), 3 * WIDTH * HEIGHT);
	CHECK(ftruncate(fd, JPEG_PPM_LIMIT) == 0); /* what is behind it does not matter */
	CHECK(jpeg_of_ppm(t, fd, &jpeg, &n) == 0);
	check_picture(t, jpeg, n);
}

static void test_bad(struct task *t)
{
	static const char *const heads[] = {
		"",
		"P6\n",
		"P5\n130 70\n255\n",
		"P6\n130 70\n65535\n",
		"P6\n130 70\n2555",
		"P6\n0 70\n255\n",
		"P6\n130 0\n255\n",
		"P6\n-1 70\n255\n",
		"P6\n130 71\n255\n", /* more than there is */
		"P6\n16385 1\n255\n",
		"P6\n1 16385\n255\n",
		"P6\n16000 16000\n255\n",
		"P6\n99999999999999999999 70\n255\n",
		"P6\n                              130 70\n255\n",
	};
	const unsigned char *rgb = two_colours(t);
	for (size_t i = 0; i < COUNT(heads); i++) {
		const void *jpeg;
		size_t n;
		FD_SCOPE int fd = file_of(t, heads[i], rgb, 3 * WIDTH * HEIGHT);
		CHECK(jpeg_of_ppm(t, fd, &jpeg, &n) < 0 && t->code == INTERNAL_ERROR);
		task_forgive(t);
	}
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	test_good(t);
	test_bad(t);
	talloc_free(t);
	return 0;
}
