// SPDX-License-Identifier: Apache-2.0
/* The tables hold together: every default is one, every link points at a field, every field has a
 * sentence. */
#include "model/model.h"

#include "base/task.h"
#include "unit/check.h"

static void check_field(struct task *t, const struct row *r, const struct field *f)
{
	CHECK(*f->doc);
	CHECK(model_field(r->class, f->name) == f);
	if (f->access == LINKED) {
		const struct class *c = model_class(f->of);
		CHECK(c && model_field(c, f->via));
	}
	if (!field_is_stored(f))
		return;
	const char *text = talloc_strdup(t, field_text(t, r, f));
	struct row *other = model_new(t, r->class);
	CHECK(field_parse(t, other, f, text) == 0);
	CHECK(streq(field_text(t, other, f), text));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	for (size_t i = 0; classes[i]; i++) {
		struct row *r = model_new(t, classes[i]);
		CHECK(text_is_uuid(row_uuid(r)) && starts_with(r->ref, "OpaqueRef:"));
		for (const struct field *f = classes[i]->fields; f->name; f++)
			check_field(t, r, f);
		struct row *copy = model_copy(t, r);
		CHECK(!streq(copy->ref, r->ref) && !streq(row_uuid(copy), row_uuid(r)));
	}
	struct task_row *task = row_new(t, task);
	const struct field *progress = model_field(&class_task, "progress");
	static const char *const none[] = { "nan",  "inf", "-infinity", "1e400",
					    "0x10", " 1",  "",          "one" };
	for (size_t i = 0; i < COUNT(none); i++) {
		CHECK(field_take(t, &task->row, progress, none[i]) < 0);
		task_forgive(t);
	}
	CHECK(field_take(t, &task->row, progress, "-2.5e-1") == 0 && task->progress == -0.25);
	CHECK(enum_value("vm_power_state", "running") == vm_power_state_Running);
	CHECK(enum_value("vm_power_state", "flying") == -1);
	CHECK(streq(enum_text("vdi_type", vdi_type_suspend), "suspend"));
	talloc_free(t);
	return 0;
}
