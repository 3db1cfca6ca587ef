// SPDX-License-Identifier: Apache-2.0
/* basic.c -- "Basic cm9vdDpzZWNyZXQ=" to "root" and "secret". */
#include "wire/auth.h"

#include <stdint.h>
#include <strings.h>

#include "base/text.h"

static int digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;
	return at ? (int)(at - digits) : -1;
}

/* Base64 with or without its padding to text on ctx; NULL when it is none. */
static char *decode(const void *ctx, const char *s)
{
	size_t n = strcspn(s, "="), padding = strlen(s) - n, done = 0;
	if (strspn(s + n, "=") != padding || padding > 2 || n % 4 == 1)
		return NULL;
	char *to = talloc_array(ctx, char, n / 4 * 3 + 4);
	uint32_t bits = 0;
	for (size_t i = 0; i < n; i++) {
		int v = digit(s[i]);
		if (v < 0)
			return NULL;
		bits = bits << 6 | (uint32_t)v;
		if (i % 4)
			to[done++] = (char)(bits >> (6 - i % 4 * 2) & 0xff);
	}
	to[done] = 0;
	return strlen(to) == done ? to : NULL;
}

bool auth_basic(const void *ctx, const char *header, const char **ret_user,
		const char **ret_password)
{
	static const char scheme[] = "basic ";
	if (strncasecmp(header, scheme, strlen(scheme)) != 0)
		return false;
	header += strlen(scheme);
	char *user = decode(ctx, header + strspn(header, " "));
	char *password = user ? strchr(user, ':') : NULL;
	if (!password || !text_is_utf8(user))
		return false;
	*password++ = 0;
	*ret_user = user;
	*ret_password = password;
	return true;
}
