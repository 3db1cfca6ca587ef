// SPDX-License-Identifier: Apache-2.0
/* answer.c -- the head of the server's answer. */
#include "xe/http_client.h"

#include <ctype.h>
#include <stdint.h>
#include <strings.h>

#include "base/text.h"

/* The value when line is that field, or NULL. */
static const char *field(const char *line, const char *name)
{
	size_t n = strlen(name);
	if (strncasecmp(line, name, n) != 0 || line[n] != ':')
		return NULL;
	return line + n + 1 + strspn(line + n + 1, " \t");
}

static bool parse_status(const char *line, struct answer *ret)
{
	if (!starts_with(line, "HTTP/1.") || !isdigit((unsigned char)line[7]) || line[8] != ' ')
		return false;
	const char *s = line + 9;
	for (int i = 0; i < 3; i++)
		if (!isdigit((unsigned char)s[i]))
			return false;
	ret->status = (s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0');
	return true;
}

bool answer_parse(const void *ctx, const char *head, struct answer *ret)
{
	struct answer a = { .length = -1 };
	char *copy = talloc_strdup(ctx, head), *rest = copy;
	if (!parse_status(strsep(&rest, "\n"), &a))
		return false;
	for (char *line; (line = strsep(&rest, "\n"));) {
		line[strcspn(line, "\r")] = 0;
		const char *length = field(line, "Content-Length"), *to = field(line, "Location");
		int64_t n;
		if (length && (!text_int(length, &n) || n < 0))
			return false;
		if (length)
			a.length = n;
		if (to)
			a.location = talloc_strdup(ctx, to);
	}
	talloc_free(copy);
	*ret = a;
	return true;
}
