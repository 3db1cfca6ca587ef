// SPDX-License-Identifier: Apache-2.0
/* blob.h -- bytes that clients keep with an object, such as the picture of a console beside a snapshot.
 *
 *     object.blobs   name -> blob          the map that clients see
 *     blob.holder    the object            PRIVATE: with it the blob goes
 *     blob.file      STATE/blobs/<file>    PRIVATE: what was put last; "" until then
 *
 * Each put writes a file of its own, and the row names it when it is durable: what was there before is there
 * until then, and whoever reads it meanwhile reads it to its end. */
#pragma once

#include <stddef.h>

#include "base/limits.h"
#include "model/model.h"

struct task;

int blobs_open(struct task *);

/* A call of its own, with a row of class task.  Whole or not at all. */
int blob_put(struct task *, const char *ref, const void *bytes, size_t n);
/* Its bytes, on t. */
const char *blob_get(struct task *, const struct blob_row *, size_t *ret_n);

/* In the transaction that deletes the object: its blobs go with it. */
int blobs_drop(struct task *, const char *holder);

/* The journal's BLOB_DELETE. */
int blob_file_delete(struct task *, const char *file);
