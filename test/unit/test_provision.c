// SPDX-License-Identifier: Apache-2.0
/* The disks that a template asks for: what is read, what is refused, and that no text does harm. */
#include "api/provision.h"

#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

static void reads(struct task *t)
{
	struct provision p;
	CHECK(provision_read(t,
			     "<provision><disk device=\"0\" size=\"10737418240\" sr=\"\" "
			     "bootable=\"true\" type=\"system\"/></provision>",
			     &p) == 0);
	CHECK(p.n == 1 && streq(p.v[0].device, "0") && p.v[0].size == 10LL << 30);
	CHECK(streq(p.v[0].sr, "") && p.v[0].bootable && streq(p.v[0].type, "system"));

	/* As people write it: any order, spaces, comments, a declaration, other elements. */
	CHECK(provision_read(t,
			     "<?xml version='1.0' encoding='UTF-16'?>\n<!-- two --><provision>\n"
			     " <note><disk device='9' size='1'/></note>\n"
			     " <disk size='1048576' device='3' sr='a&amp;b'></disk>\n"
			     " <disk device='0' size='512'/>\n</provision>\n",
			     &p) == 0);
	CHECK(p.n == 2 && streq(p.v[0].device, "3") && streq(p.v[0].sr, "a&b"));
	CHECK(!p.v[0].bootable && streq(p.v[0].type, "user"));
	CHECK(provision_read(t, "<provision/>", &p) == 0 && p.n == 0);
}

static void survives(struct task *t)
{
	struct provision_disk v[] = {
		{ "0", 1LL << 40, "\"<&>'", true, "system" },
		{ "27", 512, "", false, "ephemeral" },
	};
	struct provision p = { 2, v }, back;
	CHECK(provision_read(t, provision_write(t, &p), &back) == 0 && back.n == 2);
	for (size_t i = 0; i < 2; i++) {
		CHECK(streq(back.v[i].device, v[i].device) && back.v[i].size == v[i].size);
		CHECK(streq(back.v[i].sr, v[i].sr) && back.v[i].bootable == v[i].bootable);
		CHECK(streq(back.v[i].type, v[i].type));
	}
	const char *moved = provision_move(t, provision_write(t, &p), "there");
	CHECK(moved && provision_read(t, moved, &back) == 0 && back.n == 2);
	CHECK(streq(back.v[0].sr, "there") && streq(back.v[1].sr, "there"));
	CHECK(back.v[0].size == v[0].size && back.v[0].bootable);
}

#define DISK(attributes) "<provision><disk " attributes "/></provision>"

static void refuses(struct task *t)
{
	static const char *const bad[] = {
		"",
		"no XML",
		"<provision>",
		"<disks/>",
		"<provision/><provision/>",
		DISK("size='1'"),
		DISK("device='0'"),
		DISK("device='0' size='0'"),
		DISK("device='0' size='-1'"),
		DISK("device='0' size='1x'"),
		DISK("device='0' size='99999999999999999999'"),
		DISK("device='00' size='1'"),
		DISK("device='-0' size='1'"),
		DISK("device='28' size='1'"),
		DISK("device='xvda' size='1'"),
		DISK("device='0' size='1' bootable='perhaps'"),
		DISK("device='0' size='1' type='floppy'"),
		DISK("device='0' size='1' sr='&unknown;'"),
		"<provision><disk device='0' size='1'/><disk device='0' size='1'/></provision>",
		"<!DOCTYPE p [<!ENTITY e 'x'>]><provision><disk device='0' size='&e;'/></provision>",
		"<!DOCTYPE p SYSTEM 'file:///etc/passwd'><provision/>",
		"<provision xmlns:xi='http://www.w3.org/2001/XInclude'><disk device='0' size='",
	};
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct provision p = { 7, NULL };
		bool failed = provision_read(t, bad[i], &p) < 0;
		if (!failed)
			fprintf(stderr, "not refused: %s\n", bad[i]);
		CHECK(failed && p.n == 7 && t->code == INVALID_VALUE);
		CHECK(!provision_move(t, bad[i], "there"));
		task_forgive(t);
	}
}

/* Too long, and too deep for the stack. */
static void has_limits(struct task *t)
{
	struct provision p;
	char *s = talloc_zero_array(t, char, PROVISION_BYTES + 2);
	memset(s, ' ', PROVISION_BYTES + 1);
	memcpy(s, "<provision/>", 12);
	CHECK(provision_read(t, s, &p) < 0);
	task_forgive(t);
	s[PROVISION_BYTES] = 0;
	CHECK(provision_read(t, s, &p) == 0 && p.n == 0);
	for (size_t i = 0; i + 3 <= PROVISION_BYTES; i += 3)
		memcpy(s + i, "<a>", 3);
	s[PROVISION_BYTES] = 0;
	CHECK(provision_read(t, s, &p) < 0);
	task_forgive(t);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	reads(t);
	survives(t);
	refuses(t);
	has_limits(t);
	talloc_free(t);
	return 0;
}
