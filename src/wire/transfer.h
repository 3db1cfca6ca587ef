// SPDX-License-Identifier: Apache-2.0
/* transfer.h -- disks as streams of bytes. */
#pragma once

struct task;
struct request;

/* GET /export_raw_vdi?vdi=<uuid or ref>[&format=raw|qcow2|vhd]: the disk as an image, with a Content-Length.
 * A failure on the way shows in fewer bytes than that. */
void transfer_export_vdi(struct task *, struct request *);

/* PUT /import_raw_vdi?vdi=<uuid or ref>[&format=raw|qcow2|vhd][&chunked=true]: the body, as long as its
 * Content-Length, in HTTP's chunks, or until its end, over the disk.  With sr_id=<ref or uuid> or
 * sr_uuid= in place of vdi=, and a Content-Length, it becomes a new disk of that SR, "Imported VDI".
 *
 * Without format= the body is raw, and is refused when it begins as another image, an archive or a
 * compressed file does (archive/kind.h).  A raw body without a Content-Length or chunks has to fill the
 * disk: else nothing tells that all of it came.
 *
 * chunked=true: the body is pieces of raw bytes, each behind its place on the disk (8 bytes, little-endian)
 * and its length (4 bytes); a length of 0 ends it.  What is in no piece stays as it is.
 *
 * As XenServer does, it answers 200 before it reads the body, which clients wait for.  What follows that head
 * at the end is, when all went well, nothing, or a new disk's uuid; else "Error: CODE: parameters", and
 * whether the disk that was there has been touched. */
void transfer_import_vdi(struct task *, struct request *);
