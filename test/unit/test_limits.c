// SPDX-License-Identifier: Apache-2.0
/* test_limits.c -- buckets, sources, and what a text would become, seen before anything is made of it. */
#include "base/limits.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/list.h"
#include "base/peer.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "wire/rpc.h"

static void test_buckets(void)
{
	struct bucket b = { 0 };
	for (int i = 0; i < 10; i++)
		CHECK(bucket_take(&b, 1, 10, 0.01));
	CHECK(!bucket_take(&b, 1, 10, 0.01) && !bucket_take(&b, 1, 10, 0.01) && b.left_out == 2);
	poll(NULL, 0, 60);
	CHECK(bucket_take(&b, 1, 10, 50));
	/* What a millisecond makes up for is less than can be counted, and not lost. */
	b = (struct bucket){ 0 };
	CHECK(bucket_take(&b, 1, 1, 5));
	int64_t begin = clock_ms();
	while (!bucket_take(&b, 1, 1, 5))
		CHECK(clock_ms() - begin < 5000);
	CHECK(clock_ms() - begin >= 190);

	b = (struct bucket){ 0 };
	CHECK(bucket_owe(&b, 100, 100, 10) == 0);
	int64_t ms = bucket_owe(&b, 50, 100, 10);
	CHECK(ms > 4900 && ms <= 5001);
}

/* What does not fit leaves no hole in front of what would. */
static void test_full(void)
{
	struct buffer b = { 0 };
	CHECK(RPC_ANSWER_LIMIT > RPC_BODY_LIMIT);
	CHECK(buffer_add(&b, "abc", 3, 5) == 0 && !b.full);
	CHECK(buffer_add(&b, "def", 3, 5) < 0 && b.full && b.n == 3);
	CHECK(buffer_add(&b, "g", 1, 5) < 0 && streq(b.text, "abc"));
	free(b.text);
}

static void test_sources(void)
{
	static const struct {
		const char *peer, *source;
		bool remote;
	} peers[] = {
		{ "192.0.2.1:4711", "192.0.2.1", true },
		{ "192.0.2.1:1", "192.0.2.1", true },
		{ "2001:db8:1:2:3:4:5:6:4711", "2001:db8:1:2::/64", true },
		{ "2001:db8:1:2:ffff::1:80", "2001:db8:1:2::/64", true },
		{ "2001:db8:1:3::1:80", "2001:db8:1:3::/64", true },
		{ "::1:80", "::/64", true },
		{ "fe80::1%eth0:80", "fe80::/64", true },
		{ "::ffff:192.0.2.1:80", "192.0.2.1", true },
		{ "local uid=0 pid=77", "local uid=0", false },
		{ "unknown", "unknown", true },
		{ "", "", false },
	};
	for (size_t i = 0; i < COUNT(peers); i++) {
		char *source = peer_source(NULL, peers[i].peer);
		if (!streq(source, peers[i].source))
			fprintf(stderr, "%s: %s\n", peers[i].peer, source);
		CHECK(streq(source, peers[i].source));
		CHECK(peer_is_remote(peers[i].peer) == peers[i].remote);
		talloc_free(source);
	}
}

static void test_shapes(void)
{
	static const struct {
		const char *text;
		size_t depth, values;
	} texts[] = {
		{ "", 0, 1 },           { "{}", 1, 2 },
		{ "[1,2,3]", 1, 4 },    { "{\"a\":\"[,,,:{\\\",\",\"b\":[1]}", 2, 6 },
		{ "[[],[],[]]", 2, 7 }, { "]]]]", 0, 1 },
	};
	for (size_t i = 0; i < COUNT(texts); i++) {
		struct json_shape s = json_shape(texts[i].text, strlen(texts[i].text));
		CHECK(s.depth == texts[i].depth && s.values == texts[i].values);
	}
}

static bool has_tags(const char *text, size_t tags)
{
	size_t n;
	return xmlrpc_shape(text, strlen(text), &n) && n == tags;
}

/* A tag is as long as libxml takes it for: no quote, comment or section hides attributes. */
static void test_tags(void)
{
	CHECK(has_tags("", 0) && has_tags("<a><b/></a>", 2) && has_tags("<?xml v='>'?><a/>", 1));
	CHECK(has_tags("<!-- <a><b> --><a/>", 1) && has_tags("<![CDATA[<a>]]><a/>", 1));
	CHECK(has_tags("<a x='>' y=\"'>\"/>text > text", 1));
	size_t n;
	static const char *const cut[] = { "<",      "<a", "<a x='>", "<!-- >", "<![CDATA[ > ]]",
					   "<?xml >" };
	for (size_t i = 0; i < COUNT(cut); i++)
		CHECK(!xmlrpc_shape(cut[i], strlen(cut[i]), &n));
	void *ctx = talloc_new(NULL);
	char *pad = talloc_zero_size(ctx, XML_TAG_LIMIT);
	memset(pad, 'a', XML_TAG_LIMIT - 3);
	CHECK(has_tags(str(ctx, "<%s/>", pad), 1));
	static const char *const ways[] = {
		"<a%s/>",         "<a x='>' %s/>",      "<a %s='>'/>",
		"<!-- --><a %s>", "<![CDATA[]]><a %s>", "<a x=\"'\" %s y='\"'>"
	};
	for (size_t i = 0; i < COUNT(ways); i++) {
		char *text = talloc_strdup(ctx, ways[i]), *at = strstr(text, "%s");
		*at = 0;
		char *whole = str(ctx, "%s%s%s", text, pad, at + 2);
		CHECK(!xmlrpc_shape(whole, strlen(whole), &n));
	}
	talloc_free(ctx);
}

static void test_maps(void)
{
	enum { MANY = 20000 };
	void *ctx = talloc_new(NULL);
	struct map a = { 0 }, b = { 0 }, none = { 0 };
	int64_t begin = clock_ms();
	for (int i = 0; i < MANY; i++) {
		map_add(ctx, &a, str(ctx, "k%d", i), "v");
		map_add(ctx, &b, str(ctx, "k%d", MANY - 1 - i), "v");
	}
	CHECK(map_equal(&a, &b) && !map_equal(&a, &none) && map_equal(&none, &none));
	struct map sorted = map_sorted(ctx, &a), empty = map_sorted(ctx, &none);
	for (int i = 0; i < MANY; i++)
		CHECK(streq(map_get_sorted(&sorted, a.v[i].key), "v"));
	CHECK(!map_get_sorted(&sorted, "x") && !map_get_sorted(&empty, "x"));
	struct map copy = map_copy(ctx, &a), read;
	char *text = map_to_json(ctx, &copy);
	CHECK(map_from_json(ctx, text, &read) && map_equal(&read, &a));
	b.v[7].value = "w";
	CHECK(!map_equal(&a, &b));
	CHECK(clock_ms() - begin < 5000); /* each with each would take a minute */
	talloc_free(ctx);
}

int main(void)
{
	test_buckets();
	test_full();
	test_sources();
	test_shapes();
	test_tags();
	test_maps();
	return 0;
}
