// SPDX-License-Identifier: Apache-2.0
/* misc.c -- tasks, messages, waiting, and help. */
#include "cli/cli.h"

#include <stdlib.h>

#include "api/event.h"
#include "base/delay.h"

static command_fn cancel_task, create_message, destroy_messages, event_wait, help;

const struct command commands_misc[] = {
	{ "task-cancel", cancel_task, 0, "uuid", "", "Asks a task to stop and undo what it did." },
	{ "message-create", create_message, 0, "name,priority,body",
	  "vm-uuid,pool-uuid,sr-uuid,host-uuid",
	  "Tells operators something of a VM, the pool, an SR or the host; priority is 1 (first) "
	  "to 5." },
	{ "message-destroy", destroy_messages, 0, "", "uuid,uuids",
	  "Deletes a message, or several: uuids=a,b,c." },
	{ "event-wait", event_wait, FILTERS, "class", "",
	  "Waits until an object of the class matches all of field=value and field=/=value." },
	{ "help", help, FREE, "", "", "Shows this: help, help --all, help <command>." },
	{ 0 },
};

static int cancel_task(struct cli *c)
{
	struct task_row *task = cli_object(c, task, "uuid");
	if (!task)
		return -1;
	return cli_call(c, task_cancel, (&(struct task_cancel){ .task = task->row.ref }));
}

/* What a message may be of here; nothing named: the pool. */
static int subject_of(struct cli *c, struct message_create *a)
{
	static const struct {
		const char *param;
		const struct class *class;
		enum cls cls;
	} kinds[] = { { "vm-uuid", &class_VM, cls_VM },
		      { "sr-uuid", &class_SR, cls_SR },
		      { "host-uuid", &class_host, cls_Host },
		      { "pool-uuid", &class_pool, cls_Pool } };
	size_t i = 0;
	while (i < COUNT(kinds) - 1 && !cli_arg(c, kinds[i].param))
		i++;
	const char *uuid = cli_arg(c, kinds[i].param);
	const struct row *row = uuid ? db_by_uuid_row(c->t, kinds[i].class, uuid)
				     : *db_find(c->t, &class_pool, NULL, NULL);
	a->cls = kinds[i].cls;
	a->obj_uuid = row ? row_uuid(row) : "";
	return row ? 0 : -1;
}

static int create_message(struct cli *c)
{
	struct message_create a = { .name = cli_arg(c, "name"), .body = cli_arg(c, "body") };
	if (!text_int(cli_arg(c, "priority"), &a.priority))
		return fail(c->t, INVALID_VALUE, "priority", cli_arg(c, "priority"));
	return subject_of(c, &a) < 0 || cli_call(c, message_create, &a) < 0
		       ? -1
		       : cli_uuid(c, &class_message, a.result);
}

static int destroy_messages(struct cli *c)
{
	const char *given = cli_arg(c, cli_arg(c, "uuids") ? "uuids" : "uuid");
	if (!given)
		return cli_fail(c, "Required parameter not found: uuid or uuids.");
	struct list uuids = list_split(c->t, given, ',');
	for (size_t i = 0; i < uuids.n; i++) {
		struct message_row *m = db_by_uuid(c->t, message, uuids.v[i]);
		if (!m || cli_call(c, message_destroy,
				   (&(struct message_destroy){ .self = m->row.ref })) < 0)
			return -1;
	}
	return 0;
}

/* ---- waiting ---- */

/* field=/=value arrives as the field and "/=value". */
static int wanted_state(struct cli *c, const struct view *v, struct filters *ret)
{
	if (select_filters(c, v, ret) < 0)
		return -1;
	for (size_t i = 0; i < ret->n; i++)
		if (starts_with(ret->v[i].value, "/=")) {
			ret->v[i].value += 2;
			ret->v[i].differs = true;
		}
	return 0;
}

/* Does an object in the batch match? */
static bool is_reached(struct cli *c, const struct event_batch *b, const struct filters *wanted)
{
	bool found = false;
	for (size_t i = 0; i < b->n && !found; i++) {
		struct task *scratch = task_new(c->t, c->t->name);
		const struct row *object = event_object(scratch, &b->v[i]);
		found = object && filters_match(scratch, wanted, object);
		talloc_free(scratch);
	}
	return found;
}

/* What is there comes first, as if it were new. */
static int wait_for(struct cli *c, const struct view *v, const struct filters *wanted)
{
	struct event_from a = { .token = "", .timeout = (double)delay_s(DELAY_CLI_ROUND) };
	list_add(c->t, &a.classes, v->class->name);
	for (bool found = false; !found;) {
		if (call(c->t, event_from, &a) < 0)
			return -1;
		found = is_reached(c, a.result, wanted);
		a.token = talloc_strdup(c->t, a.result->token);
		talloc_free(a.result);
	}
	return 0;
}

static int event_wait(struct cli *c)
{
	const char *class = cli_arg(c, "class");
	const struct view *v = view_find(class);
	struct filters wanted = { 0 };
	if (!v)
		return cli_fail(c, "Unknown class '%s'", class);
	if (wanted_state(c, v, &wanted) < 0 || thin_watch(c->thin, c->t) < 0)
		return -1;
	int result = wait_for(c, v, &wanted);
	thin_unwatch(c->thin);
	return result;
}

/* ---- help ---- */

struct collection {
	struct task *t;
	struct list names;
	bool all;
};

static void collect_one(void *arg, const struct view *v, const struct command *k)
{
	struct collection *into = arg;
	if (into->all || k->flags & STANDARD)
		list_add(into->t, &into->names,
			 v ? str(into->t, "%s-%s", v->name, k->name) : k->name);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "    a, b,\n    c": lines of at most 74 characters. */
static const char *wrapped(struct cli *c, const struct list *names)
{
	char *s = talloc_strdup(c->t, "    ");
	size_t width = 4;
	for (size_t i = 0; i < names->n; i++) {
		size_t n = strlen(names->v[i]) + 2;
		bool wraps = i > 0 && width + n > 74;
		width = wraps ? 4 + n : width + n;
		s = talloc_asprintf_append(s, "%s%s",
					   !i      ? ""
					   : wraps ? ",\n    "
						   : ", ",
					   names->v[i]);
	}
	return s;
}

static const char usage[] =
	"Usage: xe <command> [-s server] [-pw passwd] [-p port] [-u user] [-pwf password-file]\n"
	"  [command specific arguments]\n"
	"\n"
	"To get help on a specific command: xe help <command>\n"
	"To get a full listing of commands: xe help --all\n"
	"\n";

static void show_commands(struct cli *c, bool all)
{
	struct collection k = { .t = c->t, .all = all };
	cli_each_command(&k, collect_one);
	qsort(k.names.v, k.names.n, sizeof *k.names.v, by_name);
	if (c->minimal) {
		for (size_t i = 0; i < k.names.n; i++)
			cli_value(c, k.names.v[i]);
		return;
	}
	const char *title = all ? "Full command list" : "Common command list";
	cli_print(c, str(c->t, "%s%s\n%.*s\n\n%s", usage, title, (int)strlen(title),
			 "-------------------", wrapped(c, &k.names)));
}

static int show_one(struct cli *c, const char *name)
{
	const struct view *v;
	const struct command *k = cli_find_command(name, &v);
	if (!k)
		return cli_fail(c, "Unknown command '%s'", name);
	struct list optional = list_split(c->t, k->optional, ',');
	if (k->flags & VM_SELECTORS)
		list_add(c->t, &optional, "<vm-selectors>");
	struct list required = list_split(c->t, k->required, ',');
	struct map lines = { 0 };
	map_set(c->t, &lines, "command name", name);
	map_set(c->t, &lines, "reqd params", list_join(c->t, &required, ", "));
	map_set(c->t, &lines, "optional params", list_join(c->t, &optional, ", "));
	map_set(c->t, &lines, "description", k->help);
	cli_value(c, record_layout(c->t, &lines));
	return 0;
}

static int help(struct cli *c)
{
	bool all = false, listed = false;
	for (size_t i = 0; i < c->words.n; i++) {
		if (streq(c->words.v[i], "all"))
			all = true;
		else if (show_one(c, c->words.v[i]) < 0)
			return -1;
		else
			listed = true;
	}
	if (!listed)
		show_commands(c, all);
	return 0;
}
