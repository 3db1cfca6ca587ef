// SPDX-License-Identifier: Apache-2.0
/* layout_file.h -- qcow2 files beside each other in a directory; drawn in doc/format-sr.md. */
#pragma once

#include "sr/sr.h"

extern const struct layout layout_file;
