// SPDX-License-Identifier: Apache-2.0
/* bytes.h -- big-endian integers in the tables of images. */
#pragma once

#include <stdint.h>

static inline void put_be(void *to, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		((unsigned char *)to)[i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
}

static inline uint64_t get_be(const void *from, unsigned bytes)
{
	uint64_t value = 0;
	for (unsigned i = 0; i < bytes; i++)
		value = value << 8 | ((const unsigned char *)from)[i];
	return value;
}
