// SPDX-License-Identifier: Apache-2.0
#include "base/frame.h"

#include <assert.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

/* The frames there are, and the fields behind their tags: n number, t text, p path, l list. */
static const struct shape {
	enum frame_kind kind;
	enum frame_tag tag;
	const char *fields;
} shapes[] = {
	{ FRAME_COMMAND, FRAME_PRINT, "t" },
	{ FRAME_COMMAND, FRAME_LOAD, "t" },
	{ FRAME_COMMAND, FRAME_PROMPT, "" },
	{ FRAME_COMMAND, FRAME_EXIT, "n" },
	{ FRAME_COMMAND, FRAME_HTTP_GET, "tp" },
	{ FRAME_COMMAND, FRAME_HTTP_PUT, "tp" },
	{ FRAME_COMMAND, FRAME_ERROR, "tl" },
	{ FRAME_COMMAND, FRAME_DEBUG, "t" },
	{ FRAME_COMMAND, FRAME_PRINT_STDERR, "t" },
	{ FRAME_COMMAND, FRAME_HTTP_CONNECT, "p" },
	{ FRAME_RESPONSE, FRAME_OK, "" },
	{ FRAME_RESPONSE, FRAME_FAILED, "" },
	{ FRAME_RESPONSE, FRAME_WAIT, "" },
	{ FRAME_BLOB, FRAME_CHUNK, "n" },
	{ FRAME_BLOB, FRAME_END, "" },
};

static const struct shape *shape_of(int32_t kind, int32_t tag)
{
	for (size_t i = 0; i < COUNT(shapes); i++)
		if ((int32_t)shapes[i].kind == kind && (int32_t)shapes[i].tag == tag)
			return &shapes[i];
	return NULL;
}

static void encode(unsigned char *to, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		to[i] = (unsigned char)(v >> 8 * i);
}

static uint32_t decode(const unsigned char *from)
{
	uint32_t v = 0;
	for (int i = 0; i < 4; i++)
		v |= (uint32_t)from[i] << 8 * i;
	return v;
}

void frame_greeting(unsigned char *ret)
{
	size_t n = strlen(FRAME_MAGIC);
	memcpy(ret, FRAME_MAGIC, n);
	encode(ret + n, FRAME_MAJOR);
	encode(ret + n + 4, FRAME_MINOR);
}

/* ---- writing ---- */

struct writer {
	unsigned char *bytes; /* on ctx */
	size_t n;
	const void *ctx;
};

static unsigned char *grow(struct writer *w, size_t n)
{
	w->bytes = talloc_realloc(w->ctx, w->bytes, unsigned char, w->n + n);
	w->n += n;
	return w->bytes + w->n - n;
}

static void put_int(struct writer *w, int32_t v)
{
	encode(grow(w, 4), (uint32_t)v);
}

static void put_text(struct writer *w, const char *s)
{
	size_t n = strlen(s);
	assert(n < FRAME_LIMIT);
	put_int(w, (int32_t)n);
	if (n)
		memcpy(grow(w, n), s, n);
}

static void put_list(struct writer *w, const struct list *l)
{
	put_int(w, (int32_t)l->n);
	for (size_t i = 0; i < l->n; i++)
		put_text(w, l->v[i]);
}

unsigned char *frame_write(const void *ctx, const struct frame *f, size_t *ret_n)
{
	const struct shape *shape = shape_of((int32_t)f->kind, (int32_t)f->tag);
	assert(shape);
	struct writer w = { .ctx = ctx };
	put_int(&w, 0);
	put_int(&w, (int32_t)f->kind);
	put_int(&w, (int32_t)f->tag);
	for (const char *field = shape->fields; *field; field++) {
		if (*field == 'n')
			put_int(&w, f->number);
		else if (*field == 'l')
			put_list(&w, &f->params);
		else
			put_text(&w, *field == 't' ? f->text : f->path);
	}
	encode(w.bytes, (uint32_t)w.n - 4);
	*ret_n = w.n;
	return w.bytes;
}

/* ---- reading ---- */

struct reader {
	const unsigned char *at;
	size_t left;
};

static bool get_int(struct reader *r, int32_t *ret)
{
	if (r->left < 4)
		return false;
	*ret = (int32_t)decode(r->at);
	r->at += 4;
	r->left -= 4;
	return true;
}

static bool get_text(const void *ctx, struct reader *r, const char **ret)
{
	int32_t n;
	if (!get_int(r, &n) || n < 0 || (size_t)n > r->left || memchr(r->at, 0, (size_t)n))
		return false;
	*ret = talloc_strndup(ctx, (const char *)r->at, (size_t)n);
	r->at += n;
	r->left -= (size_t)n;
	return true;
}

static bool get_list(const void *ctx, struct reader *r, struct list *ret)
{
	int32_t n;
	/* Each string takes four bytes at least: a count that cannot be true costs nothing. */
	if (!get_int(r, &n) || n < 0 || (size_t)n > r->left / 4)
		return false;
	*ret = (struct list){ 0 };
	for (int32_t i = 0; i < n; i++) {
		const char *s;
		if (!get_text(ctx, r, &s))
			return false;
		list_add(ctx, ret, s);
	}
	return true;
}

static bool get_field(const void *ctx, struct reader *r, char field, struct frame *f)
{
	switch (field) {
	case 'n':
		return get_int(r, &f->number);
	case 't':
		return get_text(ctx, r, &f->text);
	case 'p':
		return get_text(ctx, r, &f->path);
	default:
		return get_list(ctx, r, &f->params);
	}
}

bool frame_read(const void *ctx, const void *bytes, size_t n, struct frame *ret)
{
	struct reader r = { .at = bytes, .left = n };
	struct frame f = { 0 };
	int32_t kind, tag;
	if (!get_int(&r, &kind) || !get_int(&r, &tag))
		return false;
	const struct shape *shape = shape_of(kind, tag);
	if (!shape)
		return false;
	f.kind = shape->kind;
	f.tag = shape->tag;
	for (const char *field = shape->fields; *field; field++)
		if (!get_field(ctx, &r, *field, &f))
			return false;
	if (r.left || (f.tag == FRAME_CHUNK && f.kind == FRAME_BLOB && f.number < 0))
		return false;
	*ret = f;
	return true;
}

/* ---- over a descriptor ---- */

int frame_send(struct task *t, int fd, const struct frame *f)
{
	size_t n;
	unsigned char *bytes = frame_write(t, f, &n);
	int status = io_write(t, fd, bytes, n, -1);
	talloc_free(bytes);
	return status;
}

int frame_receive(struct task *t, const void *ctx, int fd, size_t limit, struct frame *ret)
{
	unsigned char head[4];
	ssize_t got = io_read(t, fd, head, sizeof head, -1);
	if (got <= 0)
		return (int)got;
	size_t n = got == sizeof head ? decode(head) : 0;
	if (n < 8 || n > limit)
		return fail(t, INTERNAL_ERROR, "the peer sent a broken frame");
	unsigned char *bytes = talloc_array(t, unsigned char, n);
	got = io_read(t, fd, bytes, n, -1);
	bool good = got == (ssize_t)n && frame_read(ctx, bytes, n, ret);
	talloc_free(bytes);
	if (got < 0)
		return -1;
	return good ? 1 : fail(t, INTERNAL_ERROR, "the peer sent a broken frame");
}
