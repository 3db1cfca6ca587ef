// SPDX-License-Identifier: Apache-2.0
/* blob.h -- the bytes of blobs over HTTP. */
#pragma once

struct task;
struct request;

/* GET /blob?uuid= (or ref=), without a login when the blob is public. */
void blob_serve_get(struct task *, struct request *);
/* PUT /blob?uuid= (or ref=): the body, of a known length, replaces what was there, whole or not at all. */
void blob_serve_put(struct task *, struct request *);
