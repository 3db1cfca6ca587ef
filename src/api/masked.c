// SPDX-License-Identifier: Apache-2.0
#include "api/masked.h"

#include "base/limits.h"
#include "base/task.h"
#include "base/text.h"
#include "db/db.h"

#define BEGIN "OpaqueRef:"

enum {
	WHOLE = sizeof BEGIN - 1 + 36, /* and a uuid */
	SHOWN = sizeof BEGIN - 1 + 8,  /* as in audit.log */
};

const char *masked(struct task *t, const char *text)
{
	char *copy = text_cut(t, text, TASK_TEXT_LIMIT);
	for (char *at = copy; (at = strstr(at, BEGIN)); at += SHOWN) {
		const char *ref = talloc_strndup(t, at, WHOLE);
		if (strlen(ref) < WHOLE)
			break;
		if (db_seek(t, session, ref))
			memmove(at + SHOWN, at + WHOLE, strlen(at + WHOLE) + 1);
	}
	return copy;
}

const char *masked_error(struct task *t, const struct task *how)
{
	struct list info = masked_error_info(t, how);
	if (!info.n)
		return code_rows[NO_ERROR].name;
	const char *code = info.v[0];
	struct list params = { .v = info.v + 1, .n = info.n - 1 };
	return params.n ? str(t, "%s: %s", code, list_join(t, &params, ", ")) : code;
}

struct list masked_error_info(struct task *t, const struct task *how)
{
	struct list info = { 0 };
	if (how->code == NO_ERROR)
		return info;
	list_add(t, &info, code_rows[how->code].name);
	for (size_t i = 0; how->params[i]; i++)
		list_add(t, &info, masked(t, how->params[i]));
	return info;
}
