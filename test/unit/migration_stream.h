// SPDX-License-Identifier: Apache-2.0
/* migration_stream.h -- a small migration stream, made here: pc.ram of three pages, vga.vram of one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "memory/migration.h"
#include "unit/check.h"

enum { ROOM = 64 << 10, PAGE = MIGRATION_PAGE };

/* Bytes, one after the other. */
struct maker {
	unsigned char b[ROOM];
	size_t n;
};

static inline void put(struct maker *m, size_t bytes, uint64_t value)
{
	CHECK(m->n + bytes <= ROOM);
	for (size_t i = bytes; i--; value >>= 8)
		m->b[m->n + i] = (unsigned char)value;
	m->n += bytes;
}

static inline void put_bytes(struct maker *m, const void *from, size_t n)
{
	CHECK(m->n + n <= ROOM);
	memcpy(m->b + m->n, from, n);
	m->n += n;
}

static inline void put_name(struct maker *m, const char *name)
{
	put(m, 1, strlen(name));
	put_bytes(m, name, strlen(name));
}

static inline void put_page(struct maker *m, const char *block, uint64_t offset, int value)
{
	unsigned char page[PAGE];
	memset(page, value, PAGE);
	put(m, 8, offset | (value ? 8 : 2) | (block ? 0 : 0x20));
	if (block)
		put_name(m, block);
	if (value)
		put_bytes(m, page, PAGE);
	else
		put(m, 1, 0);
}

static inline void put_end(struct maker *m)
{
	put(m, 8, 0x10);
	put(m, 1, 0x7e);
	put(m, 4, 2);
}

static inline void put_section(struct maker *m, int type)
{
	put(m, 1, (uint64_t)type);
	put(m, 4, 2);
}

static inline void put_head(struct maker *m)
{
	put(m, 4, 0x5145564d);
	put(m, 4, 3);
	put(m, 1, 7);
	put(m, 4, 10);
	put_bytes(m, "pc-q35-9.9", 10);
	put(m, 1, 5);
	put_name(m, "configuration/capabilities");
	put(m, 4, 1);
	put(m, 4, 1);
	put_name(m, "background-snapshot");
}

static inline void put_setup(struct maker *m)
{
	put_section(m, 1);
	put_name(m, "ram");
	put(m, 4, 0);
	put(m, 4, 4);
	put(m, 8, 4 * PAGE | 4);
	put_name(m, "pc.ram");
	put(m, 8, 3 * PAGE);
	put_name(m, "vga.vram");
	put(m, 8, PAGE);
	put_end(m);
}

static inline void put_devices(struct maker *m)
{
	put_bytes(m, "\4devices", 8);
	put(m, 1, 0);
	put(m, 1, 6);
	put(m, 4, 2);
	put_bytes(m, "{}", 2);
}

/* background: as background-snapshot sends it. */
static inline void make(struct maker *m, bool background)
{
	m->n = 0;
	put_head(m);
	put_setup(m);
	put_section(m, 2);
	put_page(m, "pc.ram", 0, 'a');
	put_page(m, NULL, 2 * PAGE, 0);
	put_end(m);
	put_section(m, 2);
	put_page(m, "vga.vram", 0, 'v');
	put_page(m, "pc.ram", PAGE, 'b');
	put_end(m);
	if (!background) {
		put_section(m, 3);
		put_end(m);
	}
	put_devices(m);
}
