// SPDX-License-Identifier: Apache-2.0
/* transfer.h -- disks as streams of bytes. */
#pragma once

struct task;
struct request;

/* GET /export_raw_vdi?vdi=<uuid or ref>[&format=raw]: the disk's bytes, with a Content-Length.  A failure
 * on the way shows in fewer bytes than that. */
void transfer_export_vdi(struct task *, struct request *);

/* PUT /import_raw_vdi?vdi=<uuid or ref>[&format=raw]: the body, as long as its Content-Length or until
 * its end, over the disk's bytes.  As XenServer does, it answers 200 before it reads the body,
 * which clients wait for; what follows that head at the end is nothing when all went well,
 * and else "Error: CODE: parameters". */
void transfer_import_vdi(struct task *, struct request *);
