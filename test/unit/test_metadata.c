// SPDX-License-Identifier: Apache-2.0
/* Every kind of field survives writing and reading, and no text harms the reader. */
#include "api/metadata.h"

#include "base/task.h"
#include "unit/check.h"

static const char *const none[] = { NULL };

static void survives(struct task *t)
{
	struct VM_row *vm = row_new(t, VM), *back = row_new(t, VM);
	vm->name_label = "it's a \\ \"name\" (with) parentheses\nand lines";
	vm->memory_static_max = 1LL << 40;
	vm->is_a_template = true;
	vm->power_state = vm_power_state_Paused;
	map_set(vm, &vm->other_config, "key ')", "va'lue");
	list_add(vm, &vm->tags, "");
	list_add(vm, &vm->tags, "b'");
	char *text = metadata_write(t, &vm->row);
	CHECK(strstr(text, "('name__label' 'it\\'s"));
	CHECK(strstr(text, "('memory__static_max' '1099511627776')"));
	CHECK(metadata_read(t, text, &back->row, none) == 0);
	for (const struct field *f = class_VM.fields; f->name; f++)
		if (field_is_stored(f))
			CHECK(streq(field_text(t, &vm->row, f), field_text(t, &back->row, f)));
	CHECK(streq(metadata_value(t, text, "uuid"), vm->uuid));
}

static void keeps_what_is_excepted(struct task *t)
{
	static const char *const except[] = { "name_label", NULL };
	struct VM_row *vm = row_new(t, VM), *back = row_new(t, VM);
	vm->name_label = "theirs";
	back->name_label = "mine";
	CHECK(metadata_read(t, metadata_write(t, &vm->row), &back->row, except) == 0);
	CHECK(streq(back->name_label, "mine"));
}

static void refuses(struct task *t)
{
	static const char *const bad[] = {
		"",
		"(",
		"('a",
		"(('name__label'))",
		"(('name__label' 'a)",
		"((((((((((((((((",
		"('a' 'b')",
		"(('tags' 'no list'))",
		"(('platform' ('no' 'map')))",
		"(('memory__static_max' 'x'))",
		"(('is_a_template' 'maybe'))",
		"(('power_state' 'Flying'))",
		"'a\\",
	};
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct VM_row *vm = row_new(t, VM);
		CHECK(metadata_read(t, bad[i], &vm->row, none) < 0);
		CHECK(t->code != NO_ERROR);
		task_forgive(t);
	}
	struct VM_row *vm = row_new(t, VM);
	CHECK(metadata_read(t, "(('unknown' 'field') ('name__label' 'x'))", &vm->row, none) == 0);
	CHECK(streq(vm->name_label, "x"));
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	survives(t);
	keeps_what_is_excepted(t);
	refuses(t);
	talloc_free(t);
	return 0;
}
