// SPDX-License-Identifier: Apache-2.0
#include "vmm/fake_memory.h"

#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum { PAGE = 4096, PAGES = 64, BLOCK = PAGES * PAGE, ROOM = BLOCK + 4096 };
enum { SIZES = 0x04, DATA = 0x08, END = 0x10, SAME = 0x20, FOOTER = 0x7e };

struct out {
	unsigned char *bytes;
	size_t n;
};

static void number(struct out *o, unsigned bytes, uint64_t value)
{
	put_be(o->bytes + o->n, bytes, value);
	o->n += bytes;
}

static void text(struct out *o, const char *s)
{
	memcpy(o->bytes + o->n, s, strlen(s));
	o->n += strlen(s);
}

static void name(struct out *o, unsigned length_bytes, const char *s)
{
	number(o, length_bytes, strlen(s));
	text(o, s);
}

static void head(struct out *o)
{
	text(o, "QEVM");
	number(o, 4, 3);
	number(o, 1, 0x07);
	name(o, 4, FAKE_MACHINE);
	number(o, 1, 0x01);
	number(o, 4, 1);
	name(o, 1, "ram");
	number(o, 4, 0);
	number(o, 4, 4);
	number(o, 8, BLOCK | SIZES);
	name(o, 1, "pc.ram");
	number(o, 8, BLOCK);
}

/* Every fourth page holds something. */
static void pages(struct out *o)
{
	for (uint64_t i = 0; i < PAGES; i += 4) {
		number(o, 8, i * PAGE | DATA | (i ? SAME : 0));
		if (!i)
			name(o, 1, "pc.ram");
		memset(o->bytes + o->n, (int)(i + 1), PAGE);
		o->n += PAGE;
	}
	number(o, 8, END);
	number(o, 1, FOOTER);
	number(o, 4, 1);
}

static void devices(struct out *o)
{
	number(o, 1, 0x04);
	number(o, 4, 2);
	text(o, "a device");
	number(o, 1, 0);
	number(o, 1, 0x06);
	name(o, 4, "{}");
}

int fake_memory_send(struct task *t, int to)
{
	struct out o = { .bytes = talloc_size(t, ROOM) };
	head(&o);
	pages(&o);
	devices(&o);
	return io_write(t, to, o.bytes, o.n, delay_ms(DELAY_FAKE_SEND));
}

int fake_memory_load(struct task *t, int file, uint64_t at)
{
	char got[64] = "";
	if (pread(file, got, sizeof got - 1, (off_t)at) > 0 && starts_with(got, "QEVM") &&
	    memmem(got, sizeof got, FAKE_MACHINE, strlen(FAKE_MACHINE)))
		return 0;
	return fail(t, INTERNAL_ERROR, "fake start: there is no memory of this machine");
}
