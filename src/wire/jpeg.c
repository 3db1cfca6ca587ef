// SPDX-License-Identifier: Apache-2.0
#include "wire/jpeg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <jpeglib.h>

#include "base/task.h"
#include "base/text.h"

enum { QUALITY = 85, HEAD_LIMIT = 32 };

struct ppm {
	int file;
	off_t at; /* of the next line */
	unsigned width, height;
	unsigned char *line;
};

/* ---- the picture that comes ---- */

static int bad_picture(struct task *t)
{
	return fail(t, INTERNAL_ERROR, "the picture of the screen cannot be used");
}

/* One line a head, as QEMU writes it: no comments. */
static int read_head(struct task *t, struct ppm *p)
{
	char head[HEAD_LIMIT + 1] = "";
	int n = 0;
	if (pread(p->file, head, HEAD_LIMIT, 0) < 0)
		return task_fail_errno(t, errno, "pread");
	if (sscanf(head, "P6 %5u %5u 255%n", &p->width, &p->height, &n) != 2 || !n ||
	    head[n] != '\n')
		return bad_picture(t);
	if (p->width - 1 >= JPEG_SIDE_LIMIT || p->height - 1 >= JPEG_SIDE_LIMIT ||
	    3ull * p->width * p->height > JPEG_PPM_LIMIT)
		return bad_picture(t);
	p->at = n + 1;
	p->line = talloc_array(t, unsigned char, 3 * p->width);
	return 0;
}

static int read_line(struct task *t, struct ppm *p)
{
	ssize_t n = 3 * (ssize_t)p->width;
	if (task_check(t) < 0)
		return -1;
	if (pread(p->file, p->line, (size_t)n, p->at) != n)
		return bad_picture(t);
	p->at += n;
	return 0;
}

/* ---- the picture that goes ---- */

struct encoder {
	struct jpeg_compress_struct jpeg;
	struct jpeg_error_mgr errors;
	jmp_buf failed; /* libjpeg's functions do not return when they fail */
	unsigned char *bytes;
	unsigned long n;
};

static void on_failure(j_common_ptr jpeg)
{
	longjmp(((struct encoder *)jpeg->client_data)->failed, 1);
}

static void on_message(j_common_ptr jpeg)
{
	(void)jpeg;
}

static void begin(struct encoder *e, const struct ppm *p)
{
	jpeg_mem_dest(&e->jpeg, &e->bytes, &e->n);
	e->jpeg.image_width = p->width;
	e->jpeg.image_height = p->height;
	e->jpeg.input_components = 3;
	e->jpeg.in_color_space = JCS_RGB;
	jpeg_set_defaults(&e->jpeg);
	jpeg_set_quality(&e->jpeg, QUALITY, TRUE);
	jpeg_start_compress(&e->jpeg, TRUE);
}

static int encode(struct task *t, struct encoder *e, struct ppm *p)
{
	e->jpeg.err = jpeg_std_error(&e->errors);
	e->jpeg.client_data = e;
	e->errors.error_exit = on_failure;
	e->errors.output_message = on_message;
	if (setjmp(e->failed)) {
		char text[JMSG_LENGTH_MAX];
		e->errors.format_message((j_common_ptr)&e->jpeg, text);
		return fail(t, INTERNAL_ERROR, str(t, "libjpeg: %s", text));
	}
	jpeg_create_compress(&e->jpeg);
	begin(e, p);
	for (unsigned y = 0; y < p->height; y++) {
		if (read_line(t, p) < 0)
			return -1;
		jpeg_write_scanlines(&e->jpeg, &p->line, 1);
	}
	jpeg_finish_compress(&e->jpeg);
	return 0;
}

int jpeg_of_ppm(struct task *t, int file, const void **ret, size_t *ret_n)
{
	struct ppm p = { .file = file };
	struct encoder *e = talloc_zero(t, struct encoder);
	if (read_head(t, &p) < 0)
		return -1;
	int result = encode(t, e, &p);
	jpeg_destroy_compress(&e->jpeg);
	if (result == 0) {
		*ret = talloc_memdup(t, e->bytes, e->n);
		*ret_n = e->n;
	}
	free(e->bytes);
	return result;
}
