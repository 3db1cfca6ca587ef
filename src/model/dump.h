// SPDX-License-Identifier: Apache-2.0
/* dump.h -- the model as text, for people and tests: one line a class and a field. */
#pragma once

#include <stdio.h>

/* "CLASS VM" and "FIELD VM name_label RW STRING _ "" name" lines. */
void model_dump(FILE *);
