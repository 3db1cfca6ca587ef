// SPDX-License-Identifier: Apache-2.0
#include "api/words.h"

#include "base/task.h"
#include "base/text.h"
#include "db/db.h"

char *ref_shown(struct task *t, const char *ref)
{
	if (ref_is_null(ref))
		return NULL;
	for (size_t i = 0; classes[i]; i++) {
		const struct row *row = db_seek_row(t, classes[i], ref);
		const struct field *name = row ? model_field(classes[i], "name_label") : NULL;
		if (name)
			return str(t, "%s (%s)", row_uuid(row), field_text(t, row, name));
		if (row)
			return talloc_strdup(t, row_uuid(row));
	}
	return NULL;
}

/* "name: value" of each parameter that says something; the names are those of errors.def. */
static struct list parameters(struct task *t)
{
	struct list names = list_split(t, code_rows[t->code].params, ' '), said = { 0 };
	size_t given = 0;
	while (t->params[given])
		given++;
	for (size_t i = 0; i < names.n || i < given; i++) {
		const char *value = i < given ? t->params[i] : "<unknown>";
		const char *shown = ref_shown(t, value);
		if (!*value)
			continue;
		list_add(t, &said,
			 str(t, "%s: %s", i < names.n ? names.v[i] : "<extra>",
			     shown ? shown : value));
	}
	return said;
}

const char *failure_lines(struct task *t)
{
	const struct code_row *row = &code_rows[t->code];
	struct list said = parameters(t), bare = { 0 };
	for (size_t i = 0; t->params[i]; i++)
		list_add(t, &bare, t->params[i]);
	return str(t, "%s%s%s\nError code: %s\nError parameters: %s", row->text, said.n ? "\n" : "",
		   list_join(t, &said, "\n"), row->name, list_join(t, &bare, ", "));
}

const char *failure_line(struct task *t)
{
	const struct code_row *row = &code_rows[t->code];
	struct list said = parameters(t);
	return str(t, "%s%s%s [%s]", row->text, said.n ? " " : "", list_join(t, &said, ", "),
		   row->name);
}
