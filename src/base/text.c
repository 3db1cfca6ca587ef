// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"

char *str(const void *ctx, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *s = talloc_vasprintf(ctx, fmt, ap);
	va_end(ap);
	assert(s);
	return s;
}

bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool ends_with(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && streq(s + n - m, suffix);
}

/* Length of the UTF-8 sequence at s, 0 when it is not one. */
static size_t utf8_length(const unsigned char *s)
{
	static const struct {
		unsigned char mask, lead;
		size_t length;
		uint32_t least;
	} forms[] = {
		{ 0x80, 0x00, 1, 0 },
		{ 0xe0, 0xc0, 2, 0x80 },
		{ 0xf0, 0xe0, 3, 0x800 },
		{ 0xf8, 0xf0, 4, 0x10000 },
	};
	for (size_t i = 0; i < COUNT(forms); i++) {
		if ((s[0] & forms[i].mask) != forms[i].lead)
			continue;
		uint32_t c = s[0] & (unsigned char)~forms[i].mask;
		for (size_t k = 1; k < forms[i].length; k++) {
			if ((s[k] & 0xc0) != 0x80)
				return 0;
			c = c << 6 | (s[k] & 0x3f);
		}
		bool surrogate = c >= 0xd800 && c <= 0xdfff;
		return c < forms[i].least || c > 0x10ffff || surrogate ? 0 : forms[i].length;
	}
	return 0;
}

bool text_is_utf8(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	while (*p) {
		size_t n = utf8_length(p);
		if (!n)
			return false;
		p += n;
	}
	return true;
}

/* C0, DEL, C1; U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069. */
static bool is_control(const unsigned char *s)
{
	if (s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0))
		return true;
	if (s[0] != 0xe2)
		return false;
	return (s[1] == 0x80 && (s[2] == 0x8e || s[2] == 0x8f || (s[2] >= 0xa8 && s[2] <= 0xae))) ||
	       (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9);
}

char *text_plain(const void *ctx, const char *s, size_t limit)
{
	const unsigned char *p = (const unsigned char *)s;
	char *copy = talloc_array(ctx, char, strnlen(s, limit) + 1);
	size_t n = 0;
	while (*p) {
		size_t length = utf8_length(p);
		if (n + length > limit)
			break;
		if (length && !is_control(p)) {
			memcpy(copy + n, p, length);
			n += length;
		}
		p += length ? length : 1;
	}
	copy[n] = 0;
	return copy;
}

char *text_cut(const void *ctx, const char *s, size_t limit)
{
	size_t n = strnlen(s, limit + 1);
	if (n > limit)
		for (n = limit; n && ((unsigned char)s[n] & 0xc0) == 0x80;)
			n--;
	return talloc_strndup(ctx, s, n);
}

char *text_visible(const void *ctx, const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	char *copy = talloc_array(ctx, char, 4 * strlen(s) + 1), *to = copy;
	while (*p) {
		size_t n = utf8_length(p);
		bool plain = n && (*p == '\n' || *p == '\t' || !is_control(p));
		for (n = n ? n : 1; n; n--, p++)
			if (plain)
				*to++ = (char)*p;
			else
				to += sprintf(to, "\\x%02x", *p);
	}
	*to = 0;
	return copy;
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

unsigned text_distance(const char *a, const char *b)
{
	unsigned row
		[64]; /* the distances between the characters of a so far and each beginning of b */
	size_t n = strlen(b);
	if (strlen(a) >= COUNT(row) || n >= COUNT(row))
		return TEXT_FAR;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (; *a; a++) {
		unsigned diagonal = row[0]++;
		for (size_t j = 0; j < n; j++) {
			unsigned changed = diagonal + (*a != b[j]);
			diagonal = row[j + 1];
			row[j + 1] = least(changed, least(row[j], row[j + 1]) + 1);
		}
	}
	return row[n];
}

char *text_trim(char *s)
{
	s += strspn(s, " \t\r");
	size_t n = strlen(s);
	while (n && strchr(" \t\r", s[n - 1]))
		s[--n] = 0;
	return s;
}

char *text_swap(const void *ctx, const char *s, char from, char to)
{
	char *copy = talloc_strdup(ctx, s);
	for (char *p = copy; *p; p++)
		if (*p == from)
			*p = to;
	return copy;
}

char *text_xml(const void *ctx, const char *s)
{
	char *out = talloc_array(ctx, char, 6 * strlen(s) + 1), *to = out;
	for (; *s; s++) {
		const char *name = *s == '&'    ? "&amp;"
				   : *s == '<'  ? "&lt;"
				   : *s == '>'  ? "&gt;"
				   : *s == '"'  ? "&quot;"
				   : *s == '\r' ? "&#13;" /* by itself, readers take it for \n */
						: NULL;
		if (name)
			to = stpcpy(to, name);
		else if ((unsigned char)*s >= ' ' || strchr("\n\t", *s))
			*to++ = *s;
	}
	*to = 0;
	return out;
}

bool text_int(const char *s, int64_t *ret)
{
	if (!isdigit((unsigned char)s[*s == '-']))
		return false;
	char *end;
	errno = 0;
	long long v = strtoll(s, &end, 10);
	if (errno || *end)
		return false;
	*ret = v;
	return true;
}

bool text_size(const char *s, int64_t *ret)
{
	static const struct {
		const char *suffix;
		int shift;
	} units[] = { { "TiB", 40 }, { "GiB", 30 }, { "MiB", 20 }, { "KiB", 10 }, { "bytes", 0 } };
	char digits[24];
	int shift = 0;
	size_t n = strlen(s);
	for (size_t i = 0; i < COUNT(units); i++)
		if (ends_with(s, units[i].suffix)) {
			n -= strlen(units[i].suffix);
			shift = units[i].shift;
			break;
		}
	while (n && s[n - 1] == ' ')
		n--;
	if (n >= sizeof digits)
		return false;
	memcpy(digits, s, n);
	digits[n] = 0;
	int64_t v;
	if (!text_int(digits, &v) || v < 0 || v > INT64_MAX >> shift)
		return false;
	*ret = v << shift;
	return true;
}

bool text_bool(const char *s, bool *ret)
{
	static const char *const words[] = { "false", "true", "no", "yes", "0",
					     "1",     "f",    "t",  "n",   "y" };
	for (size_t i = 0; i < COUNT(words); i++)
		if (strcasecmp(s, words[i]) == 0) {
			*ret = i % 2;
			return true;
		}
	return false;
}

char *size_str(const void *ctx, uint64_t bytes)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double v = (double)bytes;
	size_t u = 0;
	while (v >= 1024 && u + 1 < COUNT(units)) {
		v /= 1024;
		u++;
	}
	return u ? str(ctx, "%.1f %s", v, units[u]) : str(ctx, "%.0f %s", v, units[u]);
}

char *time_ago(const void *ctx, int64_t seconds)
{
	time_t then = (time_t)(clock_day_s() - seconds);
	struct tm tm;
	char s[32];
	gmtime_r(&then, &tm);
	strftime(s, sizeof s, "%Y%m%dT%H:%M:%SZ", &tm);
	return talloc_strdup(ctx, s);
}

char *time_now(const void *ctx)
{
	return time_ago(ctx, 0);
}

/* s has the form of pattern, where '0' stands for a digit and 'f' for a lower-case hex digit. */
static bool matches(const char *s, const char *pattern)
{
	for (; *pattern; pattern++, s++) {
		unsigned char c = (unsigned char)*s;
		bool ok = *pattern == '0'   ? isdigit(c)
			  : *pattern == 'f' ? isdigit(c) || (c >= 'a' && c <= 'f')
					    : c == (unsigned char)*pattern;
		if (!ok)
			return false;
	}
	return !*s;
}

bool text_is_time(const char *s)
{
	return matches(s, "00000000T00:00:00Z");
}

static void random_bytes(unsigned char *to, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = getrandom(to + done, n - done, 0);
		if (got > 0)
			done += (size_t)got;
	}
}

char *hex_text(const void *ctx, const void *bytes, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *b = bytes;
	char *s = talloc_array(ctx, char, 2 * n + 1);
	for (size_t i = 0; i < n; i++) {
		s[2 * i] = digits[b[i] >> 4];
		s[2 * i + 1] = digits[b[i] & 15];
	}
	s[2 * n] = 0;
	return s;
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

unsigned char *hex_bytes(const void *ctx, const char *text, size_t *ret_n)
{
	size_t n = strlen(text) / 2;
	unsigned char *b = talloc_array(ctx, unsigned char, n + 1);
	for (size_t i = 0; i < n; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return NULL;
		b[i] = (unsigned char)(high << 4 | low);
	}
	*ret_n = n;
	return text[2 * n] ? NULL : b;
}

char *random_hex(const void *ctx, size_t bytes)
{
	unsigned char raw[64];
	assert(bytes <= sizeof raw);
	random_bytes(raw, bytes);
	return hex_text(ctx, raw, bytes);
}

char *uuid_new(const void *ctx)
{
	unsigned char b[16];
	random_bytes(b, sizeof b);
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	return str(ctx, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		   b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
		   b[13], b[14], b[15]);
}

bool text_is_uuid(const char *s)
{
	return matches(s, "ffffffff-ffff-ffff-ffff-ffffffffffff");
}

char *ref_new(const void *ctx)
{
	return str(ctx, "OpaqueRef:%s", uuid_new(ctx));
}

bool ref_is_null(const char *ref)
{
	return !ref || !*ref || streq(ref, NULL_REF);
}
