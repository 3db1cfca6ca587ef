// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include "base/json.h"
#include "base/list.h"
#include "base/task.h"
#include "unit/check.h"

static void numbers(void)
{
	int64_t n;
	CHECK(text_int("0", &n) && n == 0);
	CHECK(text_int("-9223372036854775808", &n) && n == INT64_MIN);
	CHECK(!text_int("9223372036854775808", &n) && !text_int("", &n) && !text_int("1x", &n));
	CHECK(!text_int(" 1", &n) && !text_int("+1", &n) && !text_int("-", &n) &&
	      !text_int("--1", &n));
	CHECK(text_size("5", &n) && n == 5);
	CHECK(text_size("5bytes", &n) && n == 5);
	CHECK(text_size("1KiB", &n) && n == 1024 && text_size("1 GiB", &n) && n == 1 << 30);
	CHECK(text_size("8TiB", &n) && n == 8LL << 40);
	CHECK(!text_size("-1", &n) && !text_size("9999999999TiB", &n) && !text_size("GiB", &n));
	CHECK(!text_size("1PiB", &n) && !text_size("1.5GiB", &n));
	bool b;
	CHECK(text_bool("True", &b) && b && text_bool("n", &b) && !b && !text_bool("2", &b));
}

static void utf8(void)
{
	CHECK(text_is_utf8("") && text_is_utf8("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"));
	static const char *const bad[] = {
		"\xff", "\xc0\x80", "\xe0\x80\x80",        "\xed\xa0\x80", "\xf4\x90\x80\x80",
		"\xc3", "a\x80",    "\xf8\x88\x80\x80\x80"
	};
	for (size_t i = 0; i < COUNT(bad); i++)
		CHECK(!text_is_utf8(bad[i]));
}

static void plain(struct task *t)
{
	static const struct {
		const char *s, *plain;
	} all[] = {
		{ "Debian GNU/Linux 12 (b\xc3\xbc)", "Debian GNU/Linux 12 (b\xc3\xbc)" },
		{ "a\x1b[31mred\x07\n\x7f", "a[31mred" },
		{ "\xc2\x9b"
		  "1m\xe2\x80\xae"
		  "txt\xe2\x81\xa6.\xe2\x80\x93",
		  "1mtxt.\xe2\x80\x93" },
		{ "1234567890123456789\xe2\x82\xac", "1234567890123456789" },
		{ "\xff\xfe"
		  "x\xe2\x82",
		  "x" },
		{ "", "" },
	};
	for (size_t i = 0; i < COUNT(all); i++)
		CHECK(streq(text_plain(t, all[i].s, i == 3 ? 20 : 64), all[i].plain));
}

/* The same for a terminal: nothing is lost, and nothing is obeyed. */
static void visible(struct task *t)
{
	static const struct {
		const char *s, *visible;
	} all[] = {
		{ "name ( RW): b\xc3\xbc\n\tx\n", "name ( RW): b\xc3\xbc\n\tx\n" },
		{ "a\x1b]0;owned\x07"
		  "b\r\x7f",
		  "a\\x1b]0;owned\\x07b\\x0d\\x7f" },
		{ "\xc2\x9b"
		  "1m\xe2\x80\xae"
		  "txt",
		  "\\xc2\\x9b1m\\xe2\\x80\\xaetxt" },
		{ "\x9b"
		  "2J\xff\xe2\x82",
		  "\\x9b2J\\xff\\xe2\\x82" },
		{ "", "" },
	};
	for (size_t i = 0; i < COUNT(all); i++)
		CHECK(streq(text_visible(t, all[i].s), all[i].visible));
}

static void cut(struct task *t)
{
	static const struct {
		const char *s;
		size_t limit;
		const char *cut;
	} all[] = {
		{ "", 0, "" },
		{ "abc", 3, "abc" },
		{ "abc", 2, "ab" },
		{ "a\xc3\xbc", 2, "a" },
		{ "a\xc3\xbc", 3, "a\xc3\xbc" },
		{ "\xe2\x82\xac", 2, "" },
		{ "\x82\x82\x82", 2, "" },
	};
	for (size_t i = 0; i < COUNT(all); i++)
		CHECK(streq(text_cut(t, all[i].s, all[i].limit), all[i].cut));
}

static void distances(struct task *t)
{
	static const struct {
		const char *a, *b;
		unsigned distance;
	} all[] = {
		{ "", "", 0 },
		{ "", "abc", 3 },
		{ "vm-lst", "vm-list", 1 },
		{ "vm-listt", "vm-list", 1 },
		{ "vm-lisd", "vm-list", 1 },
		{ "kitten", "sitting", 3 },
	};
	const char *longest = talloc_strndup(t, "0123456789012345678901234567890123456789012345678901234567890123", 63);
	for (size_t i = 0; i < COUNT(all); i++) {
		CHECK(text_distance(all[i].a, all[i].b) == all[i].distance);
		CHECK(text_distance(all[i].b, all[i].a) == all[i].distance);
	}
	CHECK(text_distance(longest, "") == 63 && text_distance("", longest) == 63);
	CHECK(text_distance(str(t, "%sx", longest), longest) == TEXT_FAR);
	CHECK(text_distance(longest, str(t, "%sx", longest)) == TEXT_FAR);
}

static void ids(struct task *t)
{
	CHECK(text_is_uuid(uuid_new(t)) && !streq(uuid_new(t), uuid_new(t)));
	CHECK(!text_is_uuid("") && !text_is_uuid("0000000-0000-0000-0000-000000000000"));
	CHECK(text_is_time(time_now(t)) && text_is_time(TIME_NEVER) && !text_is_time("2026"));
	CHECK(strlen(random_hex(t, 12)) == 24);
	CHECK(ref_is_null(NULL_REF) && ref_is_null("") && !ref_is_null(ref_new(t)));
}

static void collections(struct task *t)
{
	struct map m = { 0 }, back;
	map_set(t, &m, "a", "1");
	map_set(t, &m, "b", "\"2\"\n");
	map_set(t, &m, "a", "3");
	CHECK(m.n == 2 && streq(map_get(&m, "a"), "3") && !map_get(&m, "c"));
	CHECK(map_from_json(t, map_to_json(t, &m), &back) && map_equal(&m, &back));
	map_remove(&m, "a");
	CHECK(m.n == 1 && !map_equal(&m, &back));
	struct list l = list_split(t, "a,b,,c", ',');
	CHECK(l.n == 4 && streq(list_join(t, &l, ";"), "a;b;;c"));
	list_remove(&l, "b");
	list_put(t, &l, "c");
	CHECK(l.n == 3 && list_has(&l, "c") && !list_has(&l, "b"));
	CHECK(!list_from_json(t, "{}", &l) && !list_from_json(t, "[1]", &l) &&
	      list_from_json(t, "", &l));
}

static void json_limits(struct task *t)
{
	char deep[200];
	memset(deep, '[', 100);
	memset(deep + 100, ']', 100);
	CHECK(!json_read(t, deep, 200, 64) && t->code == INTERNAL_ERROR);
	task_forgive(t);
	CHECK(json_read(t, deep + 60, 80, 64));
	CHECK(!json_read(t, "{\"a\":1,\"a\":2}", 13, 64));
	task_forgive(t);
}

static void errors(struct task *t)
{
	CHECK(fail(t, HANDLE_INVALID, "VM", "x") == -1);
	CHECK(fail(t, INTERNAL_ERROR, "second") == -1);
	CHECK(t->code == HANDLE_INVALID && streq(t->params[1], "x") && !t->params[2]);
	CHECK(streq(task_error(t), "HANDLE_INVALID: VM, x"));
	task_forgive(t);
	t->cancellable = true;
	task_interrupt(t);
	CHECK(task_wait(t, -1, 0, 10000) < 0 && t->code == TASK_CANCELLED);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	numbers();
	utf8();
	plain(t);
	visible(t);
	cut(t);
	distances(t);
	ids(t);
	collections(t);
	json_limits(t);
	errors(t);
	talloc_free(t);
	return 0;
}
