// SPDX-License-Identifier: Apache-2.0
#include "api/record.h"

#include "api/audit.h"
#include "api/firmware.h"
#include "api/need.h"
#include "api/network.h"
#include "api/operation.h"
#include "api/role.h"
#include "api/storage.h"
#include "api/takes.h"
#include "api/tasks.h"
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

/* The same said the other way round; what is not specified stays as it is. */
static int check_domain_type(struct task *t, struct row *r)
{
	struct VM_row *vm = (struct VM_row *)r;
	if (vm->domain_type == domain_type_pv)
		vm->HVM_boot_policy = "";
	else if (vm->domain_type == domain_type_hvm && !*vm->HVM_boot_policy)
		vm->HVM_boot_policy = "BIOS order";
	return check_boot_policy(t, r);
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

/* What a disk is kept as is chosen when it is made, and the layer below it is told anew each time. */
static int check_vdi_sm_config(struct task *t, struct row *r)
{
	static const char *const keys[] = { "type", "vdi_type" };
	struct VDI_row *vdi = (struct VDI_row *)r, *before = db_get(t, VDI, r->ref);
	map_remove(&vdi->sm_config, "vhd-parent");
	for (size_t i = 0; before && i < COUNT(keys); i++) {
		const char *is = map_get(&vdi->sm_config, keys[i]);
		const char *was = map_get(&before->sm_config, keys[i]);
		if (is ? !was || !streq(is, was) : was != NULL)
			return fail(t, VALUE_NOT_SUPPORTED, str(t, "sm_config:%s", keys[i]),
				    is ? is : "",
				    "what a disk is kept as is chosen when it is made");
	}
	return before ? 0 : -1;
}

static int check_hostname(struct task *t, struct row *r)
{
	const struct host_row *host = (struct host_row *)r, *before = db_get(t, host, r->ref);
	if (!before || streq(host->hostname, before->hostname))
		return before ? 0 : -1;
	return fail(t, VALUE_NOT_SUPPORTED, "hostname", host->hostname,
		    "the host's name is its owner's to give: hostnamectl(1)");
}

/* Heeded when an interface is plugged in. */
static int check_network_mtu(struct task *t, struct row *r)
{
	return network_check_mtu(t, (struct network_row *)r);
}

/* A schedule is another's: who makes a VM may not put it there by that alone. */
static int check_schedule(struct task *t, struct row *r)
{
	struct VM_row *vm = (struct VM_row *)r, *before = db_get(t, VM, r->ref);
	if (!before || streq(vm->snapshot_schedule, before->snapshot_schedule))
		return before ? 0 : -1;
	if (role_check(t, role_pool_operator, "VM.set_snapshot_schedule") < 0)
		return -1;
	return vmss_check_member(t, vm);
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

/* What is to be changed. */
struct change {
	struct row *row; /* read in the present transaction */
	const struct field *field;
	const struct setter *setter; /* NULL: it has no check */
	const char *key; /* of a map, the one that changes; NULL: all of the value may */
};

/* A task is its user's alone. */
static int check_owner(struct task *t, const struct row *r, const char *field)
{
	return r->class == &class_task ? task_check_owner(t, (const struct task_row *)r,
							  str(t, "task.set_%s/any", field))
				       : 0;
}

/* The row and its field, if it may be set. */
static int settable(struct task *t, const struct class *c, const char *ref, const char *name,
		    struct change *ret)
{
	const struct field *f = model_field(c, name);
	const struct setter *s = setter_of(c, name);
	if (!f || (f->access != RW && !s))
		return fail(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s.set_%s", c->name, name));
	*ret = (struct change){ .row = db_get_row(t, c, ref), .field = f, .setter = s };
	return ret->row ? check_owner(t, ret->row, name) : -1;
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

/* Seen before anything is made of it.  r as for field_check_size(). */
static int check_size(struct task *t, const struct class *c, const struct row *r,
		      const struct field *f, const char *text)
{
	if (field_check_size(t, r, f, text) < 0)
		return -1;
	return c == &class_task ? task_check_text(t, f->name, text) : 0;
}

/* What any new value has to pass; the row has it then. */
static int take(struct task *t, struct row *r, const struct field *f, const char *text)
{
	struct map before = { 0 };
	if (field_is_map(f))
		before = *field_map(r, f);
	if (check_snapshot(t, r, f) < 0 || check_ref(t, f, text) < 0 ||
	    field_take(t, r, f, text) < 0)
		return -1;
	return takes_check(t, r, f, &before);
}

static int put(struct task *t, const struct change *c, const char *text)
{
	struct row *r = c->row;
	if (check_size(t, r->class, r, c->field, text) < 0)
		return -1;
	if (!c->key && role_check_set(t, r, c->field, text) < 0) /* the key was asked for */
		return -1;
	if (take(t, r, c->field, text) < 0)
		return -1;
	if (c->setter && c->setter->check(t, r) < 0)
		return -1;
	if (db_put(t, r) < 0)
		return -1;
	return db_commit(t);
}

static int store(struct task *t, const struct change *c, const char *text)
{
	int result = put(t, c, text);
	const struct row *r = c->row;
	bool is_own_note = r->class == &class_task; /* as what task.set_progress() notes */
	if (t->code != RBAC_PERMISSION_DENIED && !is_own_note) /* the refusal is told already */
		audit(t, str(t, "%s.set_%s", r->class->name, c->field->name), r->ref);
	return result;
}

int record_set(struct task *t, const struct class *c, const char *ref, const char *name,
	       const char *text)
{
	const struct field *f = model_field(c, name);
	struct change change;
	if (f && check_size(t, c, NULL, f, text) < 0)
		return -1;
	DB_SCOPE(t);
	return settable(t, c, ref, name, &change) < 0 ? -1 : store(t, &change, text);
}

static int set_member(struct task *t, struct row *r, const struct field *f, const json_t *value)
{
	const char *text = values_text(t, value, f);
	if (!text || check_size(t, r->class, r, f, text) < 0)
		return -1;
	return role_check_made(t, r, f, text) < 0 ? -1 : take(t, r, f, text);
}

/* What an object is not made with is passed over, unless somebody may rely on it: that is refused by takes.def. */
static int pass_over(struct task *t, struct row *r, const struct field *f, const json_t *value)
{
	if (!takes_some(r->class, f))
		return 0;
	struct row *wish = talloc_memdup(t, r, r->class->size);
	const char *text = values_text(t, value, f);
	if (!text || field_take(t, wish, f, text) < 0)
		return -1;
	return takes_check(t, wish, f, field_is_map(f) ? field_map(r, f) : NULL);
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
		if (value &&
		    (record_is_settable(c, f) ? set_member : pass_over)(t, r, f, value) < 0)
			return -1;
	}
	for (f = c->fields; f->name; f++) {
		const struct setter *s = setter_of(c, f->name);
		if (s && json_object_get(record, f->name) && s->check(t, r) < 0)
			return -1;
	}
	return db_put(t, r) < 0 ? -1 : db_commit(t);
}

/* ---- inside a map or a set: add_to_, remove_from_; add_, remove_ ---- */

static int settable_map(struct task *t, const struct class *c, const char *ref, const char *name,
			const char *verb, const char *key, struct change *ret)
{
	if (settable(t, c, ref, name, ret) < 0)
		return -1;
	if (!field_is_map(ret->field))
		return fail(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s.%s_%s", c->name, verb, name));
	ret->key = key;
	return role_check_key(t, c, ret->field, key);
}

static int settable_set(struct task *t, const struct class *c, const char *ref, const char *name,
			const char *verb, struct change *ret)
{
	if (settable(t, c, ref, name, ret) < 0)
		return -1;
	if (field_is_set(ret->field))
		return 0;
	return fail(t, MESSAGE_METHOD_UNKNOWN, str(t, "%s.%s_%s", c->name, verb, name));
}

int record_map_add(struct task *t, const struct class *c, const char *ref, const char *name,
		   const char *key, const char *value)
{
	struct change change;
	DB_SCOPE(t);
	if (settable_map(t, c, ref, name, "add_to", key, &change) < 0)
		return -1;
	struct map m = map_copy(t, field_map(change.row, change.field));
	if (map_get(&m, key))
		return fail(t, MAP_DUPLICATE_KEY, c->name, name, ref, key);
	map_set(t, &m, key, value);
	return store(t, &change, map_to_json(t, &m));
}

int record_map_remove(struct task *t, const struct class *c, const char *ref, const char *name,
		      const char *key)
{
	struct change change;
	DB_SCOPE(t);
	if (settable_map(t, c, ref, name, "remove_from", key, &change) < 0)
		return -1;
	struct map m = map_copy(t, field_map(change.row, change.field));
	map_remove(&m, key);
	return store(t, &change, map_to_json(t, &m));
}

int record_set_add(struct task *t, const struct class *c, const char *ref, const char *name,
		   const char *value)
{
	struct change change;
	DB_SCOPE(t);
	if (settable_set(t, c, ref, name, "add", &change) < 0)
		return -1;
	struct list l = list_copy(t, field_list(change.row, change.field));
	list_put(t, &l, value);
	return store(t, &change, list_to_json(t, &l));
}

int record_set_remove(struct task *t, const struct class *c, const char *ref, const char *name,
		      const char *value)
{
	struct change change;
	DB_SCOPE(t);
	if (settable_set(t, c, ref, name, "remove", &change) < 0)
		return -1;
	struct list l = list_copy(t, field_list(change.row, change.field));
	list_remove(&l, value);
	return store(t, &change, list_to_json(t, &l));
}
