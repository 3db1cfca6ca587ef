// SPDX-License-Identifier: Apache-2.0
/* complete.c -- what could stand where a user has begun to type, for the shells: dist/completion/.
 *
 *     $ xe complete line='vm-start vm=we'
 *     vm=web
 *
 * All of it comes from the tables of commands and columns, and the objects that there are.  What has a value to come
 * ends with = or a colon. */
#include "cli/cli.h"

#include "api/role.h"

enum { MOST = 500 };

static command_fn complete;

const struct command commands_complete[] = {
	{ "complete", complete, 0, "line", "",
	  "Prints what the last word of a command line could become; the shells use it." },
	{ 0 },
};

struct completion {
	struct cli *c;
	struct list words; /* of the line, the last one unfinished */
	const char *last;
	const struct command *command;
	const struct view *view; /* NULL: the command is about none */
	const char *before;      /* of the last word, up to its = */
	size_t n;
};

/* One more, if what was typed fits. */
static void offer(struct completion *k, const char *word)
{
	if (starts_with(word, k->last) && k->n++ < MOST)
		cli_print(k->c, word);
}

static void offer_value(struct completion *k, const char *value)
{
	offer(k, str(k->c->t, "%s%s", k->before, value));
}

/* ---- the command ---- */

static void offer_command(void *arg, const struct view *v, const struct command *command)
{
	struct completion *k = arg;
	offer(k, v ? str(k->c->t, "%s-%s", v->name, command->name) : command->name);
}

/* "vm-start" is about VMs: the longest view that the name begins with. */
static const struct view *view_of(const char *command)
{
	const struct view *found = NULL;
	for (const struct view *v = views; v->name; v++) {
		size_t n = strlen(v->name);
		if (starts_with(command, v->name) && command[n] == '-' &&
		    (!found || n > strlen(found->name)))
			found = v;
	}
	return found;
}

/* ---- its parameters ---- */

static bool is_given(const struct completion *k, const char *name)
{
	for (size_t i = 1; i + 1 < k->words.n; i++) {
		const char *word = k->words.v[i];
		word += starts_with(word, "--") ? 2 : 0;
		if (starts_with(word, name) && strchr("=", word[strlen(name)]))
			return true;
	}
	return false;
}

/* force is a word alone; device-config: takes a key first. */
static void offer_parameter(struct completion *k, const char *name)
{
	static const char *const flags[] = { "force", "multiple" };
	for (size_t i = 0; i < COUNT(flags); i++)
		if (streq(name, flags[i])) {
			offer(k, str(k->c->t, "--%s", name));
			return;
		}
	if (!is_given(k, name))
		offer(k, ends_with(name, ":") ? name : str(k->c->t, "%s=", name));
}

static void offer_listed(struct completion *k, const char *parameters)
{
	struct list names = list_split(k->c->t, parameters, ',');
	for (size_t i = 0; i < names.n; i++)
		offer_parameter(k, names.v[i]);
}

/* As filters, or to be set. */
static void offer_columns(struct completion *k, const struct view *v, bool settable)
{
	for (const struct column *column = v->columns; column->name; column++)
		if (!settable || column_is_writable(column))
			offer_parameter(k, column->name);
}

static void offer_parameters(struct completion *k)
{
	const struct command *command = k->command;
	offer_listed(k, command->required);
	offer_listed(k, command->optional);
	if (command->flags & VM_SELECTORS) {
		offer_listed(k, "vm,multiple");
		offer_columns(k, view_find("vm"), false);
	}
	if (k->view && command->flags & FILTERS)
		offer_columns(k, k->view, false);
	if (k->view && ends_with(command->name, "param-set"))
		offer_columns(k, k->view, true);
}

/* ---- a value ---- */

static void offer_objects(struct completion *k, const struct view *v, const char *field)
{
	struct filters own = { 0 };
	struct list filters = list_split(k->c->t, v->filters, ',');
	if (!role_sees(k->c->t, v->class))
		return;
	for (size_t i = 0; i < filters.n; i++) {
		struct list halves = list_split(k->c->t, filters.v[i], '=');
		filter_add(k->c, v, halves.v[0], halves.v[1], &own);
	}
	for (struct row **r = filters_candidates(k->c->t, v, &own); *r; r++)
		if (filters_match(k->c->t, &own, *r))
			offer_value(k, field_text(k->c->t, *r, model_field(v->class, field)));
}

static void offer_names(struct completion *k, const char *view)
{
	const struct view *v = view_find(view);
	offer_objects(k, v, "name_label");
	offer_objects(k, v, "uuid");
}

static void offer_column_names(struct completion *k)
{
	for (const struct column *column = k->view->columns; column->name; column++)
		offer_value(k, column->name);
}

/* Behind a comma another one: params=uuid,name-label. */
static void offer_more_columns(struct completion *k)
{
	const char *comma = strrchr(k->last, ',');
	if (comma)
		k->before = talloc_strndup(k->c->t, k->last, (size_t)(comma + 1 - k->last));
	offer_column_names(k);
}

static void offer_views(struct completion *k)
{
	for (const struct view *v = views; v->name; v++)
		offer_value(k, v->name);
}

/* What a column can say, where that is a matter of a few words. */
static void offer_column_values(struct completion *k, const char *name)
{
	const struct column *column = k->view ? view_column(k->view, name) : NULL;
	const struct field *f =
		column && column->path ? model_field(k->view->class, column->path) : NULL;
	if (f && f->kind == ENUM) {
		struct list values = enum_values(k->c->t, f->of);
		for (size_t i = 0; i < values.n; i++)
			offer_value(k, with_marks(k->c->t, values.v[i], column->marks));
	} else if (f && f->kind == BOOL) {
		offer_value(k, "true");
		offer_value(k, "false");
	} else if (f && streq(f->name, "name_label")) {
		offer_objects(k, k->view, "name_label");
	}
}

/* "sr-uuid": of an SR. */
static const struct view *named_by(const struct completion *k, const char *param)
{
	size_t n = strlen(param);
	if (streq(param, "uuid"))
		return k->view;
	if (!ends_with(param, "-uuid"))
		return NULL;
	return view_find(talloc_strndup(k->c->t, param, n - strlen("-uuid")));
}

static void offer_values(struct completion *k, const char *param)
{
	const struct view *v = named_by(k, param);
	if (v)
		offer_objects(k, v, "uuid");
	else if (streq(param, "vm") || streq(param, "template"))
		offer_names(k, param);
	else if (streq(param, "class"))
		offer_views(k);
	else if (k->view && streq(param, "param-name"))
		offer_column_names(k);
	else if (k->view && streq(param, "params"))
		offer_more_columns(k);
	else
		offer_column_values(k, param);
}

/* ---- the line ---- */

static int complete(struct cli *c)
{
	struct completion k = { .c = c, .words = list_split(c->t, cli_arg(c, "line"), ' ') };
	const char *line = cli_arg(c, "line");
	if (!*line || ends_with(line, " "))
		list_add(c->t, &k.words, ""); /* nothing of it has been typed yet */
	k.last = k.words.v[k.words.n - 1];
	if (k.words.n <= 1) {
		cli_each_command(&k, offer_command);
		return 0;
	}
	const char *equals = strchr(k.last, '=');
	k.command = cli_find_command(k.words.v[0], &k.view);
	if (!k.view)
		k.view = view_of(k.words.v[0]);
	if (!k.command)
		return 0;
	if (!equals) {
		offer_parameters(&k);
		return 0;
	}
	k.before = talloc_strndup(c->t, k.last, (size_t)(equals + 1 - k.last));
	offer_values(&k, talloc_strndup(c->t, k.last, (size_t)(equals - k.last)));
	return 0;
}
