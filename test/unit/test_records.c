// SPDX-License-Identifier: Apache-2.0
/* test_records.c -- objects as the command line shows them: every column of every view leads
 * somewhere, and the block of lines is right to the byte. */
#include "api/words.h"
#include "cli/records.h"

#include <unistd.h>

#include "base/task.h"
#include "db/db.h"
#include "unit/check.h"

/* ---- the tables ---- */

/* Each step of the path but the last is a reference; the last one is a field.  A class
 * without rows ends it. */
static void check_path(struct task *t, const struct class *class, const char *path)
{
	struct list steps = list_split(t, path, '.');
	for (size_t i = 0; i < steps.n && class; i++) {
		const struct field *f = model_field(class, steps.v[i]);
		if (!f)
			fprintf(stderr, "%s: no field %s\n", path, steps.v[i]);
		CHECK(f);
		CHECK(i + 1 == steps.n || f->kind == REF);
		class = model_class(f->of);
	}
}

static void check_names(struct task *t, const struct view *v, const char *names)
{
	struct list l = list_split(t, names, ',');
	for (size_t i = 0; i < l.n; i++)
		CHECK(view_column(v, talloc_strndup(t, l.v[i], strcspn(l.v[i], "="))));
}

static void test_tables(struct task *t)
{
	CHECK(view_find("snapshot") && !view_find("nonsense"));
	for (const struct view *v = views; v->name; v++) {
		CHECK(streq(v->columns[0].name, "uuid"));
		check_names(t, v, v->defaults);
		check_names(t, v, v->filters);
		for (const struct column *c = v->columns; c->name; c++) {
			CHECK(!c->path == !!c->worked);
			CHECK(view_column(v, c->name) == c); /* no name twice */
			CHECK(strlen(c->tag) == 5);
			if (c->path)
				check_path(t, v->class, c->path);
		}
	}
}

/* ---- the layout ---- */

static void test_layout(struct task *t)
{
	struct map lines = { 0 };
	map_set(t, &lines, "uuid ( RO)", "1");
	map_set(t, &lines, "name-label ( RW)", "before, \"it\"");
	map_set(t, &lines, "tags (SRW)", "");
	CHECK(streq(record_layout(t, &lines), "uuid ( RO)          : 1\n"
					      "    name-label ( RW): before, \"it\"\n"
					      "          tags (SRW): \n"
					      "\n"));
	CHECK(streq(record_layout(t, &(struct map){ 0 }), "\n"));
}

static void test_labels(struct task *t)
{
	const struct view *vm = view_find("vm");
	CHECK(streq(column_label(t, view_column(vm, "tags")), "tags (SRW)"));
	CHECK(streq(column_label(t, view_column(vm, "ha-always-run")),
		    "ha-always-run ( RW) [DEPRECATED]"));
	CHECK(column_is_writable(view_column(vm, "other-config")));
	CHECK(!column_is_writable(view_column(vm, "power-state")));
}

/* ---- values ---- */

static const char *shown(struct task *t, const char *view, const char *column,
			 const struct row *row)
{
	return column_text(t, view_column(view_find(view), column), row);
}

static void store(struct task *t, struct row *row)
{
	DB_SCOPE(t);
	CHECK(db_insert(t, row) == 0 && db_commit(t) == 0);
}

static struct VM_row *a_vm(struct task *t)
{
	struct VM_row *vm = row_new(t, VM);
	vm->name_label = "web";
	vm->power_state = vm_power_state_Running;
	vm->actions_after_crash = on_crash_behaviour_rename_restart;
	vm->HVM_shadow_multiplier = 1.5;
	vm->suspend_SR = ref_new(t); /* of what has gone */
	list_add(vm, &vm->tags, "a");
	list_add(vm, &vm->tags, "b");
	map_set(vm, &vm->other_config, "k", "v");
	map_set(vm, &vm->other_config, "owner", "");
	map_set(vm, &vm->current_operations, "OpaqueRef:1", "snapshot");
	map_set(vm, &vm->current_operations, "OpaqueRef:2", "clone");
	store(t, &vm->row);
	return vm;
}

static void test_values(struct task *t)
{
	struct VM_row *vm = a_vm(t);
	const struct row *r = &vm->row;
	CHECK(streq(shown(t, "vm", "name-label", r), "web"));
	CHECK(streq(shown(t, "vm", "power-state", r), "running"));
	CHECK(streq(shown(t, "vm", "actions-after-crash", r), "Rename restart"));
	CHECK(streq(shown(t, "vm", "HVM-shadow-multiplier", r), "1.500"));
	CHECK(streq(shown(t, "vm", "is-a-snapshot", r), "false"));
	CHECK(streq(shown(t, "vm", "snapshot-time", r), "19700101T00:00:00Z"));
	CHECK(streq(shown(t, "vm", "tags", r), "a, b"));
	CHECK(streq(shown(t, "vm", "other-config", r), "k: v; owner: "));
	CHECK(streq(shown(t, "vm", "current-operations", r), "snapshot; clone"));
	CHECK(streq(shown(t, "vm", "last-boot-record", r), "''"));

	struct map m;
	struct list l;
	const struct view *v = view_find("vm");
	CHECK(column_map(t, view_column(v, "other-config"), r, &m) && streq(map_get(&m, "k"), "v"));
	CHECK(!column_map(t, view_column(v, "tags"), r, &m));
	CHECK(column_set(t, view_column(v, "tags"), r, &l) && list_has(&l, "b"));
	CHECK(!column_set(t, view_column(v, "name-label"), r, &l));
}

/* A reference is shown as the uuid of its object, when there is one. */
static void test_references(struct task *t)
{
	struct VM_row *vm = a_vm(t), *snapshot = row_new(t, VM);
	snapshot->snapshot_of = vm->row.ref;
	store(t, &snapshot->row);
	struct VBD_row *vbd = row_new(t, VBD);
	vbd->VM = vm->row.ref;
	vbd->userdevice = "1";
	store(t, &vbd->row);

	CHECK(streq(shown(t, "snapshot", "snapshot-of", &snapshot->row), vm->uuid));
	CHECK(streq(shown(t, "vm", "snapshots", &vm->row), snapshot->uuid));
	CHECK(streq(shown(t, "vbd", "vm-name-label", &vbd->row), "web"));
	CHECK(streq(shown(t, "vbd", "vdi-uuid", &vbd->row), "<not in database>"));
	CHECK(streq(shown(t, "vm", "suspend-SR-uuid", &vm->row), "<invalid reference>"));
	CHECK(streq(shown(t, "vm", "start-time", &vm->row), "<not in database>"));
	CHECK(streq(shown(t, "vm", "os-version", &vm->row), "<not in database>"));
	CHECK(starts_with(shown(t, "vm", "allowed-VBD-devices", &vm->row), "0; 2; 3; "));

	CHECK(streq(ref_shown(t, vm->row.ref), str(t, "%s (web)", vm->uuid)));
	CHECK(streq(ref_shown(t, vbd->row.ref), vbd->uuid));
	CHECK(!ref_shown(t, NULL_REF) && !ref_shown(t, "halted"));
}

int main(void)
{
	char dir[] = "/tmp/test_records.XXXXXX";
	CHECK(mkdtemp(dir));
	struct task *t = task_new(NULL, "test");
	CHECK(db_open(t, str(t, "%s/db", dir)) == 0);
	test_tables(t);
	test_layout(t);
	test_labels(t);
	test_values(t);
	test_references(t);
	db_close();
	static const char *const files[] = { "db", "db-wal", "db-shm" };
	for (size_t i = 0; i < COUNT(files); i++)
		unlink(str(t, "%s/%s", dir, files[i]));
	rmdir(dir);
	talloc_free(t);
	return 0;
}
