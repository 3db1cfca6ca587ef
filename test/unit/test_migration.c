// SPDX-License-Identifier: Apache-2.0
/* test_migration.c -- streams made here: what is read of them, each length cut short, each byte changed. */
#include <string.h>

#include "base/task.h"
#include "base/text.h"
#include "memory/migration.h"
#include "unit/check.h"
#include "unit/migration_stream.h"

struct seen {
	const struct maker *m;
	size_t at, piece;
	char said[1024];
};

static ssize_t some(struct task *t, void *arg, void *to, size_t n)
{
	struct seen *s = arg;
	size_t left = s->m->n - s->at;
	(void)t;
	n = n < left ? n : left;
	n = n < s->piece ? n : s->piece;
	memcpy(to, s->m->b + s->at, n);
	s->at += n;
	return (ssize_t)n;
}

static void say(struct seen *s, const char *text)
{
	size_t n = strlen(s->said);
	CHECK(n + strlen(text) < sizeof s->said);
	strcpy(s->said + n, text);
}

static int on_begin(struct task *t, void *arg, const char *machine, size_t n,
		    const struct migration_block *b)
{
	say(arg, machine);
	for (size_t i = 0; i < n; i++)
		say(arg, str(t, " %s=%llu", b[i].name, (unsigned long long)b[i].size));
	return 0;
}

static int on_page(struct task *t, void *arg, size_t block, uint64_t offset, const void *page)
{
	const char *p = page;
	say(arg, str(t, " %zu@%llu:%c%c", block, (unsigned long long)offset, p ? p[0] : '-',
		     p ? p[PAGE - 1] : '-'));
	return 0;
}

static int on_state(struct task *t, void *arg, const void *bytes, size_t n)
{
	say(arg, str(t, " %zu %s", n, (const char *)bytes));
	return 0;
}

static int read_it(struct task *t, const struct maker *m, size_t piece, uint64_t limit,
		   struct seen *s)
{
	*s = (struct seen){ .m = m, .piece = piece };
	struct migration_source source = { some, s };
	struct migration_sink sink = { on_begin, on_page, on_state, s };
	return migration_read(t, &source, limit, &sink);
}

static bool refused(const struct maker *m, uint64_t limit, const char *why)
{
	struct task *t = task_new(NULL, "test");
	struct seen s;
	bool yes = read_it(t, m, ROOM, limit, &s) < 0 && strstr(task_error(t), why);
	if (!yes)
		printf("wanted '%s', got '%s' %s\n", why, t->code ? task_error(t) : "success", s.said);
	talloc_free(t);
	return yes;
}

static const char whole[] = "pc-q35-9.9 pc.ram=12288 vga.vram=4096 0@0:aa 0@8192:-- 1@0:vv 0@4096:bb 16 \4devices";

static void test_whole(struct maker *m)
{
	static const size_t pieces[] = { 1, 7, 4096, ROOM };
	for (size_t i = 0; i < COUNT(pieces); i++) {
		struct task *t = task_new(NULL, "test");
		struct seen s;
		CHECK(read_it(t, m, pieces[i], 4 * PAGE, &s) == 0);
		CHECK(streq(s.said, whole));
		talloc_free(t);
	}
}

static void test_cut(struct maker *m)
{
	size_t n = m->n;
	for (m->n = 0; m->n < n; m->n += m->n < 300 || m->n > n - 300 ? 1 : 61)
		CHECK(refused(m, 4 * PAGE, " it "));
	m->n = n;
}

/* A changed byte of the form is seen, or means something else; nothing is read that is not there. */
static void test_changed(struct maker *m)
{
	for (size_t i = 0; i < m->n; i++)
		for (int bit = 0; bit < (i < 300 || i > m->n - 300 ? 8 : 0); bit++) {
			struct task *t = task_new(NULL, "test");
			struct seen s;
			m->b[i] ^= (unsigned char)(1 << bit);
			int result = read_it(t, m, ROOM, 4 * PAGE, &s);
			CHECK((result == 0) == (t->code == NO_ERROR));
			m->b[i] ^= (unsigned char)(1 << bit);
			talloc_free(t);
		}
}

static void test_refusals(struct maker *m)
{
	static const struct {
		uint64_t offset;
		const char *block, *why;
	} pages[] = {
		{ 3 * PAGE, "pc.ram", "behind its block" },
		{ UINT64_MAX << 12, "pc.ram", "behind its block" },
		{ 0, "other", "of no block" },
		{ 0, NULL, "of no block" },
		{ 0x200, "pc.ram", "flags 0x20" },
	};
	CHECK(refused(m, 4 * PAGE - 1, "16384 bytes of RAM, of at most 16383"));
	for (size_t i = 0; i < COUNT(pages); i++) {
		m->n = 0;
		put_head(m);
		put_setup(m);
		put_section(m, 2);
		put_page(m, pages[i].block, pages[i].offset, 'x');
		CHECK(refused(m, 4 * PAGE, pages[i].why));
	}
	m->n = 0;
	put_head(m);
	put_setup(m);
	put_setup(m);
	CHECK(refused(m, 4 * PAGE, "a second section begins"));
	m->n = 0;
	put_head(m);
	put_section(m, 1);
	put_name(m, "ram");
	put(m, 4, 0);
	put(m, 4, 4);
	put_end(m);
	CHECK(refused(m, 4 * PAGE, "RAM is not described"));
}

int main(void)
{
	static struct maker m;
	for (int background = 0; background < 2; background++) {
		make(&m, background);
		test_whole(&m);
		test_cut(&m);
		test_changed(&m);
	}
	test_refusals(&m);
	return 0;
}
