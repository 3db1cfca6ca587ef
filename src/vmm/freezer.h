// SPDX-License-Identifier: Apache-2.0
/* freezer.h -- what both ends of a freezer know (freeze.h). */
#pragma once

enum {
	FREEZER_PORT = 3,       /* its descriptors: to the agent ... */
	FREEZER_WORDS = 4,      /* ... and to whoever started it */
	FREEZER_PACKET = 16384, /* the longest of its words */
};
