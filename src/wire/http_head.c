// SPDX-License-Identifier: Apache-2.0
/* http_head.c -- the head of a request, from bytes.
 *
 * Two readers that disagree about where a request ends are how one is smuggled past the other.
 * So everything that could be read in two ways is refused: a line that ends in a bare CR or LF,
 * a folded field, a blank in front of the colon, two lengths, a length beside chunks. */
#include "wire/http.h"

#include <ctype.h>
#include <strings.h>

#include "base/text.h"

long http_head_end(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c == '\n' || c == 127 || (c < 32 && c != '\r' && c != '\t'))
			return -1;
		if (c != '\r')
			continue;
		if (++i == n)
			break;
		if (s[i] != '\n')
			return -1;
		if (i >= 3 && s[i - 2] == '\n')
			return (long)i + 1;
	}
	return 0;
}

static bool is_token(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
			return false;
	return true;
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
	return at ? (int)(at - digits) : -1;
}

/* s without its %XX, on ctx; NULL when one is broken or stands for NUL, or no UTF-8 comes out. */
static char *decode(const void *ctx, const char *s, bool plus_is_blank)
{
	char *to = talloc_array(ctx, char, strlen(s) + 1), *p = to;
	for (; *s; s++) {
		if (*s != '%') {
			*p++ = *s == '+' && plus_is_blank ? ' ' : *s;
			continue;
		}
		int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);
		if (low < 0 || (high | low) == 0)
			return NULL;
		*p++ = (char)(high << 4 | low);
		s += 2;
	}
	*p = 0;
	return text_is_utf8(to) ? to : NULL;
}

/* No segment of a path may be . or .., whoever serves files beneath it. */
static bool is_plain_path(const char *path)
{
	if (*path != '/')
		return false;
	for (const char *p = path; p; p = strchr(p, '/')) {
		size_t n = strcspn(++p, "/");
		if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
	}
	return true;
}

static bool parse_query(const void *ctx, char *s, struct map *ret)
{
	char *rest = s;
	for (char *item; (item = strsep(&rest, "&"));) {
		if (!*item)
			continue;
		char *value = strchr(item, '=');
		if (value)
			*value++ = 0;
		const char *k = decode(ctx, item, true), *v = decode(ctx, value ? value : "", true);
		if (!k || !v || map_get(ret, k) || ret->n == HTTP_FIELD_LIMIT)
			return false;
		map_set(ctx, ret, k, v);
	}
	return true;
}

static int parse_target(const void *ctx, char *target, struct request *ret)
{
	char *query = strchr(target, '?');
	if (query)
		*query++ = 0;
	ret->path = decode(ctx, target, false);
	if (!ret->path || !is_plain_path(ret->path))
		return 400;
	return query && !parse_query(ctx, query, &ret->query) ? 400 : 0;
}

/* METHOD SP target SP HTTP/1.x: exactly one blank at each place. */
static int parse_request_line(const void *ctx, char *line, struct request *ret)
{
	char *target = strchr(line, ' ');
	if (!target)
		return 400;
	*target++ = 0;
	char *version = strchr(target, ' ');
	if (!version)
		return 400;
	*version++ = 0;
	if (!is_token(line) || strchr(version, ' ') || !starts_with(version, "HTTP/"))
		return 400;
	if (!streq(version, "HTTP/1.0") && !streq(version, "HTTP/1.1"))
		return 505;
	ret->method = talloc_strdup(ctx, line);
	ret->minor = version[7] - '0';
	return parse_target(ctx, target, ret);
}

/* Fields that mean one thing and may not come twice; the values of others are joined. */
static bool is_single(const char *name)
{
	static const char *const names[] = {
		"host",         "content-length", "transfer-encoding", "authorization",
		"content-type", "origin",         "upgrade",           "sec-websocket-key",
	};
	for (size_t i = 0; i < COUNT(names); i++)
		if (streq(name, names[i]))
			return true;
	return false;
}

static int parse_field(const void *ctx, char *line, struct request *ret)
{
	char *value = strchr(line, ':');
	if (!value)
		return 400;
	*value++ = 0;
	if (!is_token(line))
		return 400;
	if (ret->headers.n == HTTP_FIELD_LIMIT)
		return 431;
	for (char *p = line; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	value += strspn(value, " \t");
	for (size_t n = strlen(value); n && strchr(" \t", value[n - 1]); n--)
		value[n - 1] = 0;

	const char *before = map_get(&ret->headers, line);
	if (before && is_single(line))
		return 400;
	map_set(ctx, &ret->headers, line, before ? str(ctx, "%s, %s", before, value) : value);
	return 0;
}

/* Digits alone: no sign, no list, no blank in between, nothing that text_int() would forgive. */
static bool parse_length(const char *s, int64_t *ret)
{
	size_t n = strlen(s);
	return n && n <= 18 && strspn(s, "0123456789") == n && text_int(s, ret);
}

static int parse_framing(struct request *ret)
{
	const char *length = map_get(&ret->headers, "content-length");
	const char *coding = map_get(&ret->headers, "transfer-encoding");
	ret->body_length = -1;
	if (length && (coding || !parse_length(length, &ret->body_length)))
		return 400;
	if (!coding)
		return 0;
	if (ret->minor == 0)
		return 400;
	if (strcasecmp(coding, "chunked") != 0)
		return 501;
	ret->chunked = true;
	return 0;
}

/* What the client wants; a connection of HTTP/1.1 stays where nothing is said. */
static bool wants_to_stay(const struct request *req)
{
	const char *said = map_get(&req->headers, "connection");
	if (req->minor == 0)
		return said && strcasestr(said, "keep-alive");
	return !said || !strcasestr(said, "close");
}

/* Cuts the line at *at from its CRLF and steps behind it. */
static char *next_line(char **at)
{
	char *line = *at, *end = strstr(line, "\r\n");
	if (!end)
		return NULL;
	*end = 0;
	*at = end + 2;
	return line;
}

int http_parse_head(const void *ctx, const char *head, size_t n, struct request *ret)
{
	*ret = (struct request){ .fd = -1, .body_length = -1 };
	if (n > HTTP_HEAD_LIMIT)
		return 431;
	if (http_head_end(head, n) != (long)n || !n)
		return 400;
	char *copy = talloc_strndup(ctx, head, n), *at = copy;
	char *line = next_line(&at);
	int status = line ? parse_request_line(ctx, line, ret) : 400;
	while (!status && (line = next_line(&at)) && *line)
		status = parse_field(ctx, line, ret);
	talloc_free(copy);
	ret->keep = !status && wants_to_stay(ret);
	return status ? status : parse_framing(ret);
}
