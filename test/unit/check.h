// SPDX-License-Identifier: Apache-2.0
/* check.h -- what a unit test needs. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

/* Ends the test when the condition does not hold. */
#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);         \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)
