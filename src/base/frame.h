// SPDX-License-Identifier: Apache-2.0
/* frame.h -- the frames of the thin CLI protocol, as its server and its client write and read
 * them.  Pure functions over bytes.
 *
 * The client sends `POST /cli HTTP/1.0`, the arguments as the body, one a line.  The server
 * answers no HTTP head but the greeting, and the client sends the same bytes back:
 *
 *     "XenSource thin CLI protocol" int32 major = 0, int32 minor = 2
 *
 * Then frames, each a length and that many bytes.  Integers are 32 bits, little-endian, never
 * aligned; a string is its length and its bytes; a list is its count and its strings.
 *
 *     server to client    length | 9 command  | tag    | the tag's fields
 *     client to server    length | 10 response | 5 OK, 6 failed, 18 wait
 *                         length | 11 blob    | 7 chunk | n     and n bytes behind the frame
 *                         length | 11 blob    | 8 end
 *
 * Print "hi" and exit with 0:
 *
 *     0e 00 00 00  09 00 00 00  00 00 00 00  02 00 00 00  68 69
 *     0c 00 00 00  09 00 00 00  04 00 00 00  00 00 00 00
 *
 * The client's file `abc` in answer to Load: OK, a chunk, the end.
 *
 *     08 00 00 00  0a 00 00 00  05 00 00 00
 *     0c 00 00 00  0b 00 00 00  07 00 00 00  03 00 00 00  61 62 63
 *     08 00 00 00  0b 00 00 00  08 00 00 00 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

/* A header of the request, in lower case: the user reads what is no error, and no output, too. */
#define FRAME_NOTES "stillframe-notes"

#define FRAME_MAGIC "XenSource thin CLI protocol"
enum {
	FRAME_MAJOR = 0,
	FRAME_MINOR = 2,
	FRAME_GREETING = sizeof FRAME_MAGIC - 1 + 8, /* bytes of the greeting */
	FRAME_LIMIT = 16 << 20,                      /* no frame is longer */
};

enum frame_kind {
	FRAME_COMMAND = 9,
	FRAME_RESPONSE = 10,
	FRAME_BLOB = 11,
};

enum frame_tag {
	/* commands */
	FRAME_PRINT = 0, /* text */
	FRAME_LOAD = 1,  /* file */
	FRAME_PROMPT = 3,
	FRAME_EXIT = 4,          /* status */
	FRAME_HTTP_GET = 12,     /* file, path */
	FRAME_HTTP_PUT = 13,     /* file, path */
	FRAME_ERROR = 14,        /* code, parameters */
	FRAME_DEBUG = 15,        /* text */
	FRAME_PRINT_STDERR = 16, /* text */
	FRAME_HTTP_CONNECT = 17, /* path */
	/* responses */
	FRAME_OK = 5,
	FRAME_FAILED = 6,
	FRAME_WAIT = 18,
	/* blobs */
	FRAME_CHUNK = 7, /* number */
	FRAME_END = 8,
};

/* One frame's meaning; what its tag does not have is 0 or NULL. */
struct frame {
	enum frame_kind kind;
	enum frame_tag tag;
	int32_t number;   /* exit status; bytes in the chunk */
	const char *text; /* text, file, or error code */
	const char *path;
	struct list params;
};

struct task;

/* The FRAME_GREETING bytes that either side sends first. */
void frame_greeting(unsigned char *ret);

/* The frame with its length in front, on ctx. */
unsigned char *frame_write(const void *ctx, const struct frame *, size_t *ret_n);

/* The bytes behind a length to a frame whose strings are on ctx.  False when they are not
 * exactly one frame, or a string holds a NUL. */
bool frame_read(const void *ctx, const void *bytes, size_t n, struct frame *ret);

/* The same over a descriptor.  frame_receive() returns 1, or 0 when the peer ended in front of
 * a frame; a frame longer than limit, broken or cut is a failure.  It waits as long as it takes.
 * The strings are on ctx. */
int frame_send(struct task *, int fd, const struct frame *);
int frame_receive(struct task *, const void *ctx, int fd, size_t limit, struct frame *ret);
