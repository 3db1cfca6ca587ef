// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

#include <stdarg.h>

#include "api/masked.h"
#include "api/session.h"
#include "api/tasks.h"
#include "api/words.h"
#include "base/log.h"

/* ---- commands ---- */

static const struct command *const families[] = {
	commands_vm,       commands_vm_disk, commands_host,     commands_install,
	commands_snapshot, commands_tree,    commands_vdi,      commands_vbd,
	commands_cd,       commands_network, commands_sr,       commands_vmss,
	commands_blob,     commands_subject, commands_complete, commands_misc,
};

void cli_each_command(void *arg,
		      void (*each)(void *arg, const struct view *, const struct command *))
{
	for (size_t i = 0; i < COUNT(families); i++)
		for (const struct command *k = families[i]; k->name; k++)
			each(arg, NULL, k);
	for (const struct view *v = views; v->name; v++)
		for (const struct command *k = commands_generic; k->name; k++)
			each(arg, v, k);
}

struct search {
	const char *name;
	const struct view *view;
	const struct command *found;
};

static void compare(void *arg, const struct view *v, const struct command *k)
{
	struct search *s = arg;
	size_t n = v ? strlen(v->name) : 0;
	if (v && (!starts_with(s->name, v->name) || s->name[n++] != '-'))
		return;
	if (s->found || !streq(s->name + n, k->name))
		return;
	s->view = v;
	s->found = k;
}

const struct command *cli_find_command(const char *name, const struct view **ret_view)
{
	struct search s = { .name = name };
	cli_each_command(&s, compare);
	*ret_view = s.view;
	return s.found;
}

/* ---- errors ---- */

static const char *with_help(struct cli *c, const char *what, const char *which)
{
	return str(c->t, "%s: %s\nFor usage run: 'xe help'", what, which);
}

/* A failure of ours that stands as it is. */
static int say(struct cli *c, const char *text)
{
	c->failure = text;
	return -1;
}

int cli_fail(struct cli *c, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *text = talloc_vasprintf(c->t, fmt, ap);
	va_end(ap);
	return say(c, str(c->t, "Error: %s", text));
}

void cli_forgive(struct cli *c)
{
	task_forgive(c->t);
	c->failure = NULL;
}

const char *cli_failure(struct cli *c)
{
	if (c->failure)
		return c->failure;
	return c->t->code == NO_ERROR ? "" : failure_lines(c->t);
}

/* ---- arguments ---- */

const char *cli_arg(struct cli *c, const char *name)
{
	return map_get(&c->args, name);
}

const char *cli_arg_or(struct cli *c, const char *name, const char *otherwise)
{
	const char *value = cli_arg(c, name);
	return value ? value : otherwise;
}

int cli_bool(struct cli *c, const char *name, bool *ret)
{
	const char *value = cli_arg(c, name);
	if (!value || text_bool(value, ret))
		return 0;
	return cli_fail(c, "Failed to parse parameter '%s': expecting true or false, not '%s'",
			name, value);
}

int cli_size(struct cli *c, const char *name, int64_t *ret)
{
	const char *value = cli_arg(c, name);
	if (!value || text_size(value, ret))
		return 0;
	return cli_fail(c,
			"Failed to parse parameter '%s': expecting a number of bytes, as in "
			"1048576 or 1024KiB or 1MiB, not '%s'",
			name, value);
}

struct map cli_map(struct cli *c, const char *prefix)
{
	struct map m = { 0 };
	size_t n = strlen(prefix);
	for (size_t i = 0; i < c->args.n; i++)
		if (starts_with(c->args.v[i].key, prefix) && c->args.v[i].key[n] == ':')
			map_set(c->t, &m, c->args.v[i].key + n + 1, c->args.v[i].value);
	return m;
}

struct row *cli_object_row(struct cli *c, const struct class *class, const char *param)
{
	const char *uuid = cli_arg(c, param);
	if (!uuid)
		return cli_fail_ptr(c, "Required parameter not found: %s.", param);
	return db_by_uuid_row(c->t, class, uuid);
}

/* "--force" is force=true; --minimal and what the client keeps for itself are taken out. */
static int take_argument(struct cli *c, const char *typed)
{
	bool flag = starts_with(typed, "--");
	const char *word = flag ? typed + 2 : typed;
	const char *equals = strchr(word, '=');
	if (streq(c->name, "help") && !equals && !streq(word, "minimal"))
		list_add(c->t, &c->words, word); /* help --all, help vm-list */
	else if (streq(word, "minimal=true") || (flag && streq(word, "minimal")))
		c->minimal = true;
	else if (equals && equals > word)
		map_set(c->t, &c->args, talloc_strndup(c->t, word, (size_t)(equals - word)),
			equals + 1);
	else if (flag && !equals)
		map_set(c->t, &c->args, word, "true");
	else
		return say(c, with_help(c, "Syntax error", typed));
	return 0;
}

static int take_arguments(struct cli *c, const struct list *typed)
{
	size_t first = 0;
	while (first < typed->n && starts_with(typed->v[first], "--")) /* xe --minimal vm-list */
		first++;
	c->name = first < typed->n ? typed->v[first] : "help";
	for (size_t i = 0; i < typed->n; i++)
		if (i != first && take_argument(c, typed->v[i]) < 0)
			return -1;
	return 0;
}

/* Is name one of the parameters in the list, or a key of one that ends with a colon? */
static bool is_listed(struct task *t, const char *parameters, const char *name)
{
	struct list l = list_split(t, parameters, ',');
	for (size_t i = 0; i < l.n; i++)
		if (streq(l.v[i], name) || (ends_with(l.v[i], ":") && starts_with(name, l.v[i])))
			return true;
	return false;
}

bool cli_takes(struct cli *c, const char *name)
{
	return is_listed(c->t, c->command->required, name) ||
	       is_listed(c->t, c->command->optional, name);
}

/* What a script gives needlessly is told and passed over, except where it could be a slip of the pen
 * that destroys something. */
static int check_parameters(struct cli *c)
{
	struct list required = list_split(c->t, c->command->required, ',');
	for (size_t i = 0; i < required.n; i++)
		if (!cli_arg(c, required.v[i]))
			return say(c, with_help(c, "Required parameter not found", required.v[i]));

	for (size_t i = 0; i < c->args.n; i++) {
		const char *name = c->args.v[i].key;
		if (cli_takes(c, name) || c->command->flags & (VM_SELECTORS | FILTERS | FREE))
			continue;
		if (c->command->flags & EXACT)
			return cli_fail(c, "%s does not know the parameter '%s'", c->name, name);
		cli_note(c, "Note: %s does not know the parameter '%s'", c->name, name);
	}
	return 0;
}

/* ---- output ---- */

void cli_print(struct cli *c, const char *text)
{
	if (!c->minimal)
		thin_print(c->thin, text);
}

void cli_note(struct cli *c, const char *fmt, ...)
{
	if (c->minimal || !c->notes)
		return;
	va_list ap;
	va_start(ap, fmt);
	thin_error(c->thin, talloc_vasprintf(c->t, fmt, ap));
	va_end(ap);
}

void cli_warn(struct cli *c, const char *text)
{
	thin_error(c->thin, text);
}

void cli_value(struct cli *c, const char *text)
{
	if (c->minimal)
		list_add(c->t, &c->values, text);
	else
		thin_print(c->thin, text);
}

int cli_uuid(struct cli *c, const struct class *class, const char *ref)
{
	const struct row *row = db_get_row(c->t, class, ref);
	if (!row)
		return -1;
	cli_value(c, row_uuid(row));
	return 0;
}

bool cli_confirmed(struct cli *c)
{
	thin_print(c->thin, "Type 'yes' to continue");
	const char *answer = thin_prompt(c->thin);
	if (answer && streq(answer, "yes"))
		return true;
	if (answer)
		thin_print(c->thin, "Aborted");
	return false;
}

/* a,b with commas and backslashes inside the values escaped by a backslash. */
static void print_minimal(struct cli *c)
{
	size_t room = 1;
	for (size_t i = 0; i < c->values.n; i++)
		room += 2 * strlen(c->values.v[i]) + 1;
	char *line = talloc_array(c->t, char, room), *to = line;
	for (size_t i = 0; i < c->values.n; i++) {
		if (i)
			*to++ = ',';
		for (const char *p = c->values.v[i]; *p; p++) {
			if (*p == ',' || *p == '\\')
				*to++ = '\\';
			*to++ = *p;
		}
	}
	*to = 0;
	if (c->values.n)
		thin_print(c->thin, line);
}

/* ---- calls and transfers ---- */

int cli_run_call(struct cli *c, const struct call *call, void *args)
{
	if (thin_watch(c->thin, c->t) < 0)
		return -1;
	int result = api_call(c->t, call, args);
	thin_unwatch(c->thin);
	return result;
}

/* The task of a transfer that the client makes over a connection of its own: it goes with the command. */
const char *cli_task_begin(struct cli *c, const char *name)
{
	return task_for_command(c->t, name);
}

void cli_task_end(struct cli *c, const char *ref)
{
	task_of_command_ends(c->t, ref);
}

static const char *url_escape(const void *ctx, const char *s)
{
	char *to = talloc_strdup(ctx, "");
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;
		bool plain = (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') ||
			     (ch >= 'a' && ch <= 'z') || strchr("-_.~:", ch);
		to = talloc_asprintf_append(to, plain ? "%c" : "%%%02X", ch);
	}
	return to;
}

const char *cli_path(struct cli *c, const char *uri, const char *key, const char *value)
{
	return str(c->t, "%s?session_id=%s&%s=%s", uri, url_escape(c->t, c->t->session), key,
		   url_escape(c->t, value));
}

/* What was in the way, the client has told already. */
int cli_transferred(struct cli *c, int result)
{
	if (result == 0 || thin_gone(c->thin))
		return result;
	cli_forgive(c);
	return say(c, "");
}

/* ---- one request ---- */

static int log_in(struct cli *c, const struct thin_request *r, bool trusted)
{
	struct task *t = c->t;
	if (r->session) {
		t->session = session_check(t, r->session);
	} else if (trusted) {
		t->session = session_local(t);
	} else if (!r->username || !r->password) {
		t->session = "";
		return say(c, "Username/password must be specified");
	} else {
		t->session = session_login(t, r->username, r->password, "xe");
	}
	if (t->session)
		return 0;
	t->session = "";
	if (t->code != SESSION_AUTHENTICATION_FAILED)
		return -1;
	task_forgive(t);
	return say(c, "Authentication failed");
}

static int unknown_command(struct cli *c)
{
	const char *why = cli_absent(c->name), *meant = why ? NULL : cli_nearest(c);
	if (why)
		return cli_fail(c, "%s is a command of XenServer's that is not here. %s", c->name,
				why);
	const char *which = meant ? str(c->t, "%s\nDid you mean %s?", c->name, meant) : c->name;
	return say(c, with_help(c, "Unknown command", which));
}

static int run_command(struct cli *c)
{
	c->command = cli_find_command(c->name, &c->view);
	if (!c->command)
		return unknown_command(c);
	if (!c->view)
		c->view = view_find("vm");
	if (check_parameters(c) < 0)
		return -1;
	return c->command->run(c);
}

static int serve(struct cli *c, const char *body, size_t n, bool trusted)
{
	struct thin_request r;
	if (!text_is_utf8(talloc_strndup(c->t, body, n)))
		return fail(c->t, INVALID_VALUE, "argument", "(not UTF-8)");
	if (thin_parse_body(c->t, body, n, &r) < 0 || take_arguments(c, &r.args) < 0 ||
	    log_in(c, &r, trusted) < 0)
		return -1;
	task_work(c->t); /* the client's greeting was waited for, and perhaps PAM */
	int result = run_command(c);
	if (!r.session)
		session_end(c->t, c->t->session);
	return result;
}

enum { SHOWN = 40 }; /* of a command's name, as it was typed */

static void note_end(struct cli *c, int result, const struct cli_peer *peer)
{
	struct task *own = task_new(c->t, c->t->name);
	log_line(c->t, "cli command ended command=\"%.*s\" peer=\"%s\" result=\"%s\"", SHOWN,
		 c->name, peer->name,
		 result == 0              ? "success"
		 : c->t->code == NO_ERROR ? "refused"
					  : masked_error(own, c->t));
	talloc_free(own);
}

void cli_serve(struct task *t, int fd, const char *body, size_t n, const struct cli_peer *peer)
{
	struct cli c = { .t = t, .thin = thin_open(t, fd), .name = "", .notes = peer->notes };
	if (!c.thin)
		return;
	int result = serve(&c, body, n, peer->trusted);
	note_end(&c, result, peer);

	const char *failure = result < 0 ? cli_failure(&c) : "";
	print_minimal(&c);
	if (*failure)
		thin_error(c.thin, failure);
	thin_exit(c.thin, result < 0 ? 1 : 0);
}
