// SPDX-License-Identifier: Apache-2.0
/* subject.c -- who may log in, and what they may do. */
#include "cli/cli.h"

static command_fn add, drop, add_role, drop_role;

const struct command commands_subject[] = {
	{ "subject-add", add, 0, "subject-name", "",
	  "Lets an account of the host log in, as pool-admin until it has other roles; prints its "
	  "uuid." },
	{ "subject-remove", drop, 0, "subject-uuid", "",
	  "Lets it log in no more, and ends its sessions." },
	{ "subject-role-add", add_role, 0, "uuid", "role-name,role-uuid",
	  "Gives it a role; its sessions end." },
	{ "subject-role-remove", drop_role, 0, "uuid", "role-name,role-uuid",
	  "Takes a role from it; its sessions end." },
	{ 0 },
};

static int add(struct cli *c)
{
	struct subject_create a = { .subject_identifier = cli_arg(c, "subject-name") };
	map_set(c->t, &a.other_config, "subject-name", a.subject_identifier);
	if (cli_call(c, subject_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_subject, a.result);
}

static int drop(struct cli *c)
{
	struct subject_row *s = cli_object(c, subject, "subject-uuid");
	if (!s)
		return -1;
	return cli_call(c, subject_destroy, (&(struct subject_destroy){ .self = s->row.ref }));
}

/* The role that is named either way; NULL with the error. */
static const char *role_meant(struct cli *c)
{
	const char *name = cli_arg(c, "role-name");
	if (cli_arg(c, "role-uuid")) {
		struct role_row *r = cli_object(c, role, "role-uuid");
		return r ? r->row.ref : NULL;
	}
	if (!name)
		return cli_fail_ptr(c, "Required parameter not found: role-name or role-uuid.");
	struct row *r = db_find(c->t, &class_role, "name_label", name)[0];
	return r ? r->ref : cli_fail_ptr(c, "There is no role %s; xe role-list lists them.", name);
}

static int add_role(struct cli *c)
{
	struct subject_row *s = cli_object(c, subject, "uuid");
	const char *r = s ? role_meant(c) : NULL;
	if (!r)
		return -1;
	return cli_call(c, subject_add_to_roles,
			(&(struct subject_add_to_roles){ .self = s->row.ref, .role = r }));
}

static int drop_role(struct cli *c)
{
	struct subject_row *s = cli_object(c, subject, "uuid");
	const char *r = s ? role_meant(c) : NULL;
	if (!r)
		return -1;
	return cli_call(c, subject_remove_from_roles,
			(&(struct subject_remove_from_roles){ .self = s->row.ref, .role = r }));
}
