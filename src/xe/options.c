// SPDX-License-Identifier: Apache-2.0
#include "xe/options.h"

#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum { FILE_LIMIT = 64 << 10 };

static const struct option {
	const char *key;
	const char *words[2]; /* on the command line */
	bool has_value;       /* behind the word */
} options[] = {
	{ "server", { "-s", "-h" }, true },    { "port", { "-p" }, true },
	{ "username", { "-u" }, true },        { "password", { "-pw" }, true },
	{ "passwordfile", { "-pwf" }, true },  { "nossl", { "--nossl" }, false },
	{ "debug", { "--debug" }, false },     { "debugonfail", { "--debug-on-fail" }, false },
	{ "verbose", { "--verbose" }, false },
};

static const struct option *option_by_word(const char *word)
{
	for (size_t i = 0; i < COUNT(options); i++)
		for (size_t k = 0; k < 2 && options[i].words[k]; k++)
			if (streq(options[i].words[k], word))
				return &options[i];
	return NULL;
}

static bool is_key(const char *key)
{
	for (size_t i = 0; i < COUNT(options); i++)
		if (streq(options[i].key, key))
			return true;
	return false;
}

/* One place's words: settings into set, the rest into args. */
static int take_words(struct task *t, const struct list *words, struct map *set, struct list *args)
{
	for (size_t i = 0; i < words->n; i++) {
		const char *word = words->v[i], *equals = strchr(word, '=');
		const struct option *o = option_by_word(word);
		const char *key = equals ? talloc_strndup(t, word, (size_t)(equals - word)) : "";
		if (o && o->has_value && i + 1 == words->n)
			return fail(t, INTERNAL_ERROR, str(t, "%s needs a value", word));
		if (o)
			map_set(t, set, o->key, o->has_value ? words->v[++i] : "true");
		else if (is_key(key))
			map_set(t, set, key, equals + 1);
		else
			list_add(t, args, word);
	}
	return 0;
}

static struct list command_line(struct task *t, char **argv)
{
	struct list words = { 0 };
	while (*argv && *++argv)
		list_add(t, &words, *argv);
	return words;
}

/* "a,b\,c" is a and b,c. */
static struct list environment(struct task *t)
{
	struct list words = { 0 };
	const char *s = getenv("XE_EXTRA_ARGS");
	char *word = talloc_array(t, char, s ? strlen(s) + 1 : 1), *to = word;
	for (; s && *s; s++) {
		if (*s == ',') {
			*to = 0;
			list_add(t, &words, word);
			to = word;
		} else {
			if (*s == '\\' && s[1])
				s++;
			*to++ = *s;
		}
	}
	*to = 0;
	if (*word)
		list_add(t, &words, word);
	return words;
}

const char *home_folder(void)
{
	const char *home = getenv("HOME");
	const struct passwd *user = home && *home ? NULL : getpwuid(geteuid());
	return user ? user->pw_dir : home && *home ? home : NULL;
}

static int home_file(struct task *t, struct list *ret)
{
	const char *home = home_folder(), *path = str(t, "%s/.xe", home ? home : "");
	if (!home || !file_exists(path))
		return 0;
	const char *text = file_read(t, path, FILE_LIMIT);
	if (!text)
		return -1;
	struct list lines = list_split(t, text, '\n');
	for (size_t i = 0; i < lines.n; i++)
		if (strchr(lines.v[i], '=') && lines.v[i][0] != '#')
			list_add(t, ret, lines.v[i]);
	return 0;
}

/* The first line is the user, the second the password. */
static int password_file(struct task *t, const char *path, struct options *o)
{
	const char *text = file_read(t, path, FILE_LIMIT);
	if (!text)
		return -1;
	struct list lines = list_split(t, text_swap(t, text, '\r', '\n'), '\n');
	if (lines.n < 2)
		return fail(t, INTERNAL_ERROR,
			    str(t,
				"%s: the user's name and the password are to stand on its first "
				"two lines",
				path));
	o->user = lines.v[0];
	o->password = lines.v[1];
	return 0;
}

static int take_flag(struct task *t, const struct map *set, const char *key, bool *ret)
{
	const char *text = map_get(set, key);
	if (text && !text_bool(text, ret))
		return fail(t, INTERNAL_ERROR, str(t, "%s=%s: neither true nor false", key, text));
	return 0;
}

static int apply(struct task *t, const struct map *set, struct options *o)
{
	const char *file = map_get(set, "passwordfile");
	if (file && password_file(t, file, o) < 0)
		return -1;
	if (map_get(set, "username"))
		o->user = map_get(set, "username");
	if (map_get(set, "password"))
		o->password = map_get(set, "password");
	o->server = map_get(set, "server");
	o->port = map_get(set, "port");
	if (take_flag(t, set, "nossl", &o->nossl) < 0 || take_flag(t, set, "debug", &o->debug) < 0)
		return -1;
	if (take_flag(t, set, "verbose", &o->verbose) < 0)
		return -1;
	return take_flag(t, set, "debugonfail", &o->debug_on_fail);
}

int options_read(struct task *t, char **argv, struct options *ret)
{
	struct list home = { 0 }, args[3] = { 0 };
	struct map set = { 0 };
	if (home_file(t, &home) < 0)
		return -1;
	/* The weakest first: what comes later is written over it. */
	const struct list places[3] = { home, environment(t), command_line(t, argv) };
	for (int i = 0; i < 3; i++)
		if (take_words(t, &places[i], &set, &args[i]) < 0)
			return -1;

	struct options o = { .typed = args[2].n };
	for (int i = 2; i >= 0; i--)
		for (size_t k = 0; k < args[i].n; k++)
			list_add(t, &o.args, args[i].v[k]);
	if (apply(t, &set, &o) < 0)
		return -1;
	*ret = o;
	return 0;
}
