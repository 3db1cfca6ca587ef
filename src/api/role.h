// SPDX-License-Identifier: Apache-2.0
/* role.h -- what a session may do: the rows of model/roles.def and the role of each CALL. */
#pragma once

#include "base/list.h"
#include "model/model.h"

struct task;

enum role {
#define ROLE(name, text, uuid, doc) role_##name,
#include "model/roles.def"
	ROLES,
};

/* The role of that name; ROLES: none. */
enum role role_named(const char *name);
const char *role_name(enum role);
const char *role_ref(const void *ctx, enum role);

/* Has t's session the role, or a stronger one?  The daemon itself, which has no session, may do all.
 * RBAC_PERMISSION_DENIED [permission, text] */
int role_check(struct task *, enum role, const char *permission);
/* May it see objects of the class? */
bool role_sees(struct task *, const struct class *);
int role_check_sees(struct task *, const struct class *, const char *permission);
/* May it make the field of the row what the text says?  In a map each key that changes counts for itself. */
int role_check_set(struct task *, const struct row *, const struct field *, const char *text);
/* May it change this key of the map?  That is asked also of one that is taken away and is not there. */
int role_check_key(struct task *, const struct class *, const struct field *, const char *key);
/* May the field of an object be so that its session makes, and may make?  Only keys with a role of their own are asked
 * for, and of these none that the object has anyway. */
int role_check_made(struct task *, const struct row *, const struct field *, const char *text);

/* The names of all that it may, but for reading. */
struct list role_permissions(const void *ctx, enum role);

/* Makes the roles' records; they are always the same. */
int roles_open(struct task *);
