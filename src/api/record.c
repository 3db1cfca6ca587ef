// SPDX-License-Identifier: Apache-2.0
#include "api/record.h"

#include "api/audit.h"
#include "api/firmware.h"
#include "api/need.h"
#include "api/network.h"
#include "api/operation.h"
#include "api/role.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/values.h"
#include "api/vm.h"
#include "api/vmss.h"
#include "base/json.h"
#include "base/task.h"
#include "db/db.h"

/* ---- reading ---- */

static struct list links(struct task *t, const struct row *r, const struct field *f)
{
	return db_refs(t, model_class(f->of), f->via, r->ref);
}

struct list record_list(struct task *t, const struct row *r, const struct field *f)
{
	if (f->access == LINKED)
		return links(t, r, f);
	if (f->access == WORKED_OUT)
		return allowed_operations(t, r);
	return list_copy(t, field_list(r, f));
}

static const struct row *with_chain(struct task *t, const struct VDI_row *vdi)
{
	struct VDI_row *shown = (struct VDI_row *)model_copy(t, &vdi->row);
	DB_EACH (t, VDI, below, "location", vdi->parent_location)
		if (streq(below->SR, vdi->SR))
			map_set(t, &shown->sm_config, "vhd-parent", below->uuid);
	return &shown->row;
}

const struct row *record_shown(struct task *t, const struct row *r, const struct field *f)
{
	const struct VDI_row *vdi = (const struct VDI_row *)r;
	bool has_chain =
		r->class == &class_VDI && streq(f->name, "sm_config") && *vdi->parent_location;
	return has_chain ? with_chain(t, vdi) : r;
}

const char *record_text(struct task *t, const struct row *r, const struct field *f)
{
	if (!field_is_set(f))
		return field_text(t, record_shown(t, r, f), f);
	struct list l = record_list(t, r, f);
	return list_to_json(t, &l);
}

/* ---- checks of setters ---- */

static int check_none(struct task *t, struct row *r)
{
	(void)t;
	(void)r;
	return 0;
}

static int check_is_a_template(struct task *t, struct row *r)
{
	struct VM_row *vm = (struct VM_row *)r;
	if (!vm->is_a_template) {
		/* One that came with the system is the user's from now on; the next start makes it anew. */
		vm->is_default_template = false;
		map_remove(&vm->other_config, "default_template");
		return vm_set_install_time(t, vm);
	}
	vm->is_a_template = false; /* the operation is asked of what it was */
	int allowed =
		vm->is_a_snapshot ? 0 : operation_check(t, vm, vm_operations_make_into_template);
	vm->is_a_template = true;
	return allowed;
}

/* "" boots a PV-kernel directly; anything else is a BIOS boot. */
static int check_boot_policy(struct task *t, struct row *r)
{
	(void)t;
	struct VM_row *vm = (struct VM_row *)r;
	vm->domain_type = *vm->HVM_boot_policy ? domain_type_hvm : domain_type_pv;
	return 0;
}

static int check_halted(struct task *t, const struct VM_row *vm)
{
	return vm->power_state == vm_power_state_Halted ? 0 : bad_power_state(t, vm, "halted");
}

static int check_vcpus(struct task *t, struct row *r)
{
	struct VM_row *vm = (struct VM_row *)r;
	if (check_halted(t, vm) < 0)
		return -1;
	return vm_check_vcpus(t, vm);
}

static int check_memory(struct task *t, struct row *r)
{
	struct VM_row *vm = (struct VM_row *)r;
	if (check_halted(t, vm) < 0)
		return -1;
	return vm_check_memory(t, vm);
}

static int check_nvram(struct task *t, struct row *r)
{
	return firmware_check_variables(t, (struct VM_row *)r);
}

static int check_detached(struct task *t, const struct VBD_row *vbd)
{
	return vbd->currently_attached ? fail(t, DEVICE_ALREADY_ATTACHED, vbd->row.ref) : 0;
}

static int check_vbd_kind(struct task *t, struct row *r)
{
	struct VBD_row *vbd = (struct VBD_row *)r;
	if (check_detached(t, vbd) < 0 || vbd_check_kind(t, vbd) < 0)
		return -1;
	return vbd_check_device(t, vbd);
}

static int check_vbd_userdevice(struct task *t, struct row *r)
{
	struct VBD_row *vbd = (struct VBD_row *)r;
	if (check_detached(t, vbd) < 0)
		return -1;
	return vbd_check_device(t, vbd);
}

/* How a disk is opened is decided when a VM gets it, and snapshots rely on that as long as somebody has it. */
static int check_opened(struct task *t, const struct VDI_row *vdi, const char *field)
{
	if (vdi->current_operations.n)
		return fail(t, OTHER_OPERATION_IN_PROGRESS, "VDI", vdi->row.ref,
			    vdi->current_operations.v[0].value, vdi->current_operations.v[0].key);
	return need_check(t, vdi, NEED_WRITE, str(t, "set_%s", field));
}

/* A disc and a snapshot stay what they are. */
static int check_vdi_read_only(struct task *t, struct row *r)
{
	const struct VDI_row *vdi = (struct VDI_row *)r, *before = db_get(t, VDI, r->ref);
	bool fixed = vdi->is_a_snapshot || storage_is_borrowed(t, vdi->SR);
	if (!before || before->read_only == vdi->read_only)
		return before ? 0 : -1;
	return fixed ? fail(t, VDI_READONLY, r->ref) : check_opened(t, vdi, "read_only");
}

static int check_vdi_sharable(struct task *t, struct row *r)
{
	const struct VDI_row *vdi = (struct VDI_row *)r, *before = db_get(t, VDI, r->ref);
	if (!before || before->sharable == vdi->sharable)
		return before ? 0 : -1;
	return vdi->is_a_snapshot ? fail(t, VDI_READONLY, r->ref)
				  : check_opened(t, vdi, "sharable");
}

/* Heeded when an interface is plugged in. */
static int check_network_mtu(struct task *t, struct row *r)
{
	return network_check_mtu(t, (struct network_row *)r);
}

static int check_schedule(struct task *t, struct row *r)
{
	return vmss_check_member(t, (struct VM_row *)r);
}

static int check_vmss(struct task *t, struct row *r)
{
	return vmss_check(t, (struct VMSS_row *)r);
}

static int check_vmss_type(struct task *t, struct row *r)
{
	return vmss_check_type(t, (struct VMSS_row *)r);
}

static const struct setter {
	const struct class *class;
	const char *field;
	int (*check)(struct task *, struct row *);
} setters[] = {
#define SETTER(class, field, check) { &class_##class, #field, check_##check },
#include "api/setters.def"
};

/* ---- setting ---- */

static const struct setter *setter_of(const struct class *c, const char *name)
{
	for (size_t i = 0; i < COUNT(setters); i++)
		if (setters[i].class == c && streq(setters[i].field, name))
			return &setters[i];
	return NULL;
}

bool record_is_settable(const struct class *c, const struct field *f)
{
	return f->access == RW || setter_of(c, f->name);
}

/* The row, read in the present transaction, and its field, if it may be set. */
static struct row *settable(struct task *t, const struct class *c, const char *ref,
			    const char *name, const struct field **ret_field,
			    const struct setter **ret_setter)
{
	const struct field *f = model_field(c, name);
	*ret_setter = setter_of(c, name);
	if (!f || (f->access != RW && !*ret_setter))
		return fail_ptr(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s.set_%s", c->name, name));
	*ret_field = f;
	return db_get_row(t, c, ref);
}

/* A reference is that of an object, or NULL. */
static int check_ref(struct task *t, const struct field *f, const char *text)
{
	const struct class *c = f->kind == REF ? model_class(f->of) : NULL;
	if (!c || ref_is_null(text))
		return 0;
	return db_get_row(t, c, text) ? 0 : -1;
}

/* The VM whose configuration the row is a part of; NULL: none. */
static const struct VM_row *vm_of(struct task *t, const struct row *r)
{
	const struct field *f = model_field(r->class, "VM");
	if (r->class == &class_VM)
		return (const struct VM_row *)r;
	return f ? db_seek(t, VM, field_text(t, r, f)) : NULL;
}

/* A snapshot tells what a revert and a clone give.  Only its name and what users note about it may change. */
static int check_snapshot(struct task *t, const struct row *r, const struct field *f)
{
	static const char *const notes[] = { "name_label",    "name_description",
					     "tags",          "other_config",
					     "is_a_template", "blocked_operations",
					     "user_version" };
	const struct VM_row *vm = vm_of(t, r);
	if (!vm || !vm->is_a_snapshot)
		return 0;
	for (size_t i = 0; i < COUNT(notes); i++)
		if (streq(notes[i], f->name))
			return 0;
	return fail(t, VM_IS_SNAPSHOT, vm->row.ref, str(t, "set_%s", f->name));
}

/* What any new value has to pass; the row has it then. */
static int take(struct task *t, struct row *r, const struct field *f, const char *text)
{
	if (role_check_set(t, r, f, text) < 0 || check_snapshot(t, r, f) < 0 ||
	    check_ref(t, f, text) < 0)
		return -1;
	return field_parse(t, r, f, text);
}

static int put(struct task *t, struct row *r, const struct field *f, const struct setter *s,
	       const char *text)
{
	if (take(t, r, f, text) < 0)
		return -1;
	if (s && s->check(t, r) < 0)
		return -1;
	if (db_put(t, r) < 0)
		return -1;
	return db_commit(t);
}

static int store(struct task *t, struct row *r, const struct field *f, const struct setter *s,
		 const char *text)
{
	int result = put(t, r, f, s, text);
	if (t->code != RBAC_PERMISSION_DENIED) /* that is told already */
		audit(t, str(t, "%s.set_%s", r->class->name, f->name), r->ref);
	return result;
}

int record_set(struct task *t, const struct class *c, const char *ref, const char *name,
	       const char *text)
{
	const struct field *f;
	const struct setter *s;
	DB_SCOPE(t);
	struct row *r = settable(t, c, ref, name, &f, &s);
	return r ? store(t, r, f, s, text) : -1;
}

static int parse_member(struct task *t, struct row *r, const struct field *f, const json_t *value)
{
	const char *text = values_text(t, value, f);
	return text ? take(t, r, f, text) : -1;
}

/* What is checked is looked at when all of it is there: limits depend on each other. */
int record_set_all(struct task *t, const struct class *c, const char *ref, const json_t *record)
{
	const struct field *f;
	const json_t *value;
	DB_SCOPE(t);
	struct row *r = db_get_row(t, c, ref);
	if (!r)
		return -1;
	for (f = c->fields; f->name; f++) {
		value = json_object_get(record, f->name);
		if (value && record_is_settable(c, f) && parse_member(t, r, f, value) < 0)
			return -1;
	}
	for (f = c->fields; f->name; f++) {
		const struct setter *s = setter_of(c, f->name);
		if (s && json_object_get(record, f->name) && s->check(t, r) < 0)
			return -1;
	}
	return db_put(t, r) < 0 ? -1 : db_commit(t);
}

/* The same for a change inside a map or a set: add_to_, remove_from_; add_, remove_. */
static struct row *collection(struct task *t, const struct class *c, const char *ref,
			      const char *name, const char *verb, const struct field **ret_field,
			      const struct setter **ret_setter)
{
	struct row *r = settable(t, c, ref, name, ret_field, ret_setter);
	bool is_right =
		r && (strchr(verb, '_') ? field_is_map(*ret_field) : field_is_set(*ret_field));
	if (r && !is_right)
		return fail_ptr(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s.%s_%s", c->name, verb, name));
	return r;
}

int record_map_add(struct task *t, const struct class *c, const char *ref, const char *name,
		   const char *key, const char *value)
{
	const struct field *f;
	const struct setter *s;
	DB_SCOPE(t);
	struct row *r = collection(t, c, ref, name, "add_to", &f, &s);
	if (!r)
		return -1;
	if (map_get(field_map(r, f), key))
		return fail(t, MAP_DUPLICATE_KEY, c->name, name, ref, key);
	struct map m = map_copy(t, field_map(r, f));
	map_set(t, &m, key, value);
	return store(t, r, f, s, map_to_json(t, &m));
}

int record_map_remove(struct task *t, const struct class *c, const char *ref, const char *name,
		      const char *key)
{
	const struct field *f;
	const struct setter *s;
	DB_SCOPE(t);
	struct row *r = collection(t, c, ref, name, "remove_from", &f, &s);
	if (!r)
		return -1;
	struct map m = map_copy(t, field_map(r, f));
	map_remove(&m, key);
	return store(t, r, f, s, map_to_json(t, &m));
}

int record_set_add(struct task *t, const struct class *c, const char *ref, const char *name,
		   const char *value)
{
	const struct field *f;
	const struct setter *s;
	DB_SCOPE(t);
	struct row *r = collection(t, c, ref, name, "add", &f, &s);
	if (!r)
		return -1;
	struct list l = list_copy(t, field_list(r, f));
	list_put(t, &l, value);
	return store(t, r, f, s, list_to_json(t, &l));
}

int record_set_remove(struct task *t, const struct class *c, const char *ref, const char *name,
		      const char *value)
{
	const struct field *f;
	const struct setter *s;
	DB_SCOPE(t);
	struct row *r = collection(t, c, ref, name, "remove", &f, &s);
	if (!r)
		return -1;
	struct list l = list_copy(t, field_list(r, f));
	list_remove(&l, value);
	return store(t, r, f, s, list_to_json(t, &l));
}
