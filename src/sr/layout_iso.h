// SPDX-License-Identifier: Apache-2.0
/* layout_iso.h -- discs: the *.iso and *.img files of a directory, read only; in doc/format-sr.md. */
#pragma once

#include "sr/sr.h"

extern const struct layout layout_iso;
