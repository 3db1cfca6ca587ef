// SPDX-License-Identifier: Apache-2.0
#include "base/delay.h"

#include <ctype.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define ENVIRONMENT "STILLFRAME_DELAYS"

static struct row {
	const char *name;
	int ms;
} rows[] = {
#define DELAY(name, ms, what) { #name, ms },
#include "base/delays.def"
};

/* As they stand in the table. */
static const int usual[] = {
#define DELAY(name, ms, what) ms,
#include "base/delays.def"
};

/* ---- factors ---- */

static bool is_letter(char row, char asked)
{
	return row == '_' ? asked == '-' : asked == tolower((unsigned char)row);
}

/* Is it what the n characters name? */
static bool is_named(const struct row *r, const char *asked, size_t n)
{
	if (n == 3 && strncmp(asked, "all", n) == 0)
		return true;
	for (size_t i = 0; i < n; i++)
		if (!r->name[i] || !is_letter(r->name[i], asked[i]))
			return false;
	return !r->name[n];
}

/* Digits, and a point among them; 0: it is no such number, or none that is of use. */
static double factor_of(const char *s)
{
	size_t whole = strspn(s, "0123456789");
	size_t rest = s[whole] == '.' ? strspn(s + whole + 1, "0123456789") + 1 : 0;
	return whole && !s[whole + rest] ? strtod(s, NULL) : 0;
}

static int scaled(int ms, double factor)
{
	double is = ms * factor;
	return ms == 0 ? 0 : is < 1 ? 1 : is > INT_MAX ? INT_MAX : (int)is;
}

static const char *scale(const char *words)
{
	size_t n = strcspn(words, "=");
	double factor = words[n] ? factor_of(words + n + 1) : 0;
	bool found = false;
	for (size_t i = 0; i < DELAYS; i++) {
		if (!is_named(&rows[i], words, n))
			continue;
		found = true;
		if (factor > 0)
			rows[i].ms = scaled(usual[i], factor);
	}
	return !found       ? "there is no delay of that name"
	       : factor > 0 ? NULL
			    : "the factor is no decimal number above 0";
}

/* ---- the environment ---- */

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Words that make no sense are passed over: the daemon, which sets the variable, has refused them already. */
static void read_environment(void)
{
	const char *all = getenv(ENVIRONMENT);
	char *words = all ? strdup(all) : NULL, *rest = words;
	for (const char *word; rest && (word = strsep(&rest, " "));)
		scale(word);
	free(words);
}

static void tell_programs(const char *words)
{
	const char *before = getenv(ENVIRONMENT);
	char *all = str(NULL, "%s%s%s", before ? before : "", before ? " " : "", words);
	setenv(ENVIRONMENT, all, 1);
	talloc_free(all);
}

const char *delay_scale(const char *words)
{
	pthread_once(&once, read_environment);
	const char *wrong = scale(words);
	if (!wrong)
		tell_programs(words);
	return wrong;
}

/* ---- what they are ---- */

int delay_ms(enum delay d)
{
	pthread_once(&once, read_environment);
	return rows[d].ms;
}

int delay_s(enum delay d)
{
	return delay_ms(d) / 1000;
}

void delay_sleep(enum delay d)
{
	poll(NULL, 0, delay_ms(d));
}
