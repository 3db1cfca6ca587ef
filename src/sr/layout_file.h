// SPDX-License-Identifier: Apache-2.0
/* layout_file.h -- volumes as qcow2 files in a directory; drawn in doc/format-sr.md. */
#pragma once

#include "sr/sr.h"

extern const struct layout layout_file;

/* The volume's file, on t. */
const char *volume_path(struct task *, const struct sr *, const char *id);
