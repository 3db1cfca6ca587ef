// SPDX-License-Identifier: Apache-2.0
/* renote.c -- another note in a memory image, whose checksums are right again: an image as another host, or an older
 * version, would have made it.
 *
 *     renote IMAGE KEY JSON      the note is that, an object
 *     renote IMAGE KEY           there is no such note
 */
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/io.h"
#include "memory/image_file.h"
#include "unit/check.h"

static void set_note(json_t *table, const char *key, const char *text)
{
	json_t *notes = json_object_get(table, "notes");
	CHECK(json_is_object(notes));
	if (!text) {
		CHECK(json_object_del(notes, key) == 0);
		return;
	}
	json_t *note = json_loads(text, 0, NULL);
	CHECK(note && json_object_set_new(notes, key, note) == 0);
}

static void write_table(int fd, unsigned char *header, const char *text)
{
	size_t n = strlen(text);
	uint64_t at = get_be(header + AT_TABLE, 8);
	put_be(header + AT_TABLE + 8, 8, n);
	put_be(header + AT_TABLE + 16, 8, XXH3_64bits(text, n));
	put_be(header + AT_CHECK, 8, XXH3_64bits(header, AT_CHECK));
	CHECK(pwrite(fd, text, n, (off_t)at) == (ssize_t)n);
	CHECK(pwrite(fd, header, IMAGE_HEADER, 0) == IMAGE_HEADER);
}

int main(int argc, char **argv)
{
	unsigned char header[IMAGE_HEADER];
	CHECK(argc == 3 || argc == 4);
	FD_SCOPE int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0 && pread(fd, header, sizeof header, 0) == IMAGE_HEADER);
	size_t n = get_be(header + AT_TABLE + 8, 8);
	CHECK(n <= IMAGE_TABLE_MAX);
	char *text = malloc(n);
	CHECK(pread(fd, text, n, (off_t)get_be(header + AT_TABLE, 8)) == (ssize_t)n);
	json_t *table = json_loadb(text, n, 0, NULL);
	set_note(table, argv[2], argc == 4 ? argv[3] : NULL);
	free(text);
	text = json_dumps(table, JSON_COMPACT);
	write_table(fd, header, text);
	free(text);
	json_decref(table);
	return 0;
}
