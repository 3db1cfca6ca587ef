// SPDX-License-Identifier: Apache-2.0
/* image.h -- the formats in which a disk's content goes out and comes in: a row each.
 *
 * Out, an image is a stream of its own making: the disk is asked what it has allocated, which gives the image's
 * length and its tables.  No copy lies anywhere.
 *
 * In, an image is judged before anything is written: intake_judge() reads as much of it as that takes.
 * An image that names another file, asks for what is not known here, or is not whole, is refused.  Where
 * the tables come before the data it is taken from the stream; else it lies meanwhile in the SR, in a
 * file without a name, so that it is gone however this ends.
 *
 *     raw      as it comes                        chunked  raw, in pieces that say where they belong
 *     vhd      dynamic: as it comes, if its tables are at its beginning; fixed: by way of a file
 *     qcow2    by way of a file, which qemu-storage-daemon reads
 *
 * Raw bytes cannot be judged: they count as whole only if a length, or HTTP's last chunk, says so.
 * doc/images.md tells for each format what is known when. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "archive/vhd.h"
#include "base/stream.h"

struct task;
struct sr;
struct disk;
struct blocks;
struct image_disk;
struct intake;

struct image_format {
	const char *name;         /* format=, and the suffix of a file's name */
	const char *content_type; /* of HTTP */

	/* Out.  bits: of the blocks in which the disk is looked at; 0: the image has all of it. */
	unsigned bits;
	uint64_t limit; /* largest disk; 0: any */
	uint64_t (*length)(const struct blocks *);
	int (*write)(struct task *, const struct blocks *, struct image_disk *, struct stream *);

	/* In.  judge: sets size where it is known, and may spool. */
	int (*judge)(struct task *, struct intake *);
	int (*pour)(struct task *, struct intake *, struct disk *);
};

/* NULL: VALUE_NOT_SUPPORTED, with the names that there are. */
const struct image_format *image_format(struct task *, const char *name);
/* Raw bytes in pieces that say where they belong; only in. */
extern const struct image_format image_chunked;

/* ---- out ---- */

struct outlet {
	int fd;
	/* Called once, when nothing but the reading can fail any more, before the first byte, with the bytes that
	 * follow. */
	int (*begin)(struct task *, struct outlet *, uint64_t length);
	unsigned char last; /* the last of them, which is not written */
};

/* The whole volume as an image, but for its last byte: that is for the caller to write when he has ended what
 * he has begun, for with it the client goes on. */
int image_export(struct task *, const struct sr *, const char *volume, const struct image_format *,
		 struct outlet *);

/* ---- in ---- */

/* Where an image comes from, and what its sender said of it. */
struct image_source {
	int in;
	uint64_t length; /* STREAM_OPEN: the sender did not say it */
	bool coded;      /* the image comes in HTTP's chunks; length is STREAM_OPEN then */
	bool unsaid; /* the sender named no format: an image that does not look raw is refused */
};

struct intake {
	const struct image_format *format;
	const struct image_source *source;
	const struct sr *sr; /* where it may lie for a while */
	const char *vdi;     /* where it goes, for messages */
	uint64_t room;       /* bytes of the largest disk that it can be of */

	struct stream in;
	struct coding coding;
	uint64_t size; /* of the disk, a multiple of 512; 0: only known at the end */
	int spool;     /* the file without a name, -1: none */
	uint64_t spooled;
	struct vhd vhd;
	struct vhd_map map;
};

/* Sets the members behind room.  IMPORT_ERROR [what is wrong with the image], VDI_TOO_SMALL.  Always to
 * be followed by intake_end(). */
int intake_judge(struct task *, struct intake *);
/* Writes it to the beginning of the volume.  Durable. */
int intake_pour(struct task *, struct intake *, const struct sr *, const char *volume);
void intake_end(struct intake *);

int image_judge_raw(struct task *, struct intake *),
	image_judge_chunks(struct task *, struct intake *),
	image_judge_vhd(struct task *, struct intake *),
	image_judge_qcow2(struct task *, struct intake *);
int image_pour_raw(struct task *, struct intake *, struct disk *),
	image_pour_chunks(struct task *, struct intake *, struct disk *),
	image_pour_vhd(struct task *, struct intake *, struct disk *),
	image_pour_qcow2(struct task *, struct intake *, struct disk *);

/* What archive/ takes for a disk. */
struct image_disk *image_disk_of(const void *ctx, struct disk *);
