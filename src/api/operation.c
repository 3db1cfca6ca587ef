// SPDX-License-Identifier: Apache-2.0
#include "api/operation.h"

#include "api/boot.h"
#include "api/need.h"
#include "api/quiesce.h"
#include "api/storage.h"
#include "api/undo.h"
#include "api/vm.h"
#include "base/delay.h"
#include "base/task.h"
#include "db/db.h"
#include "db/events.h"
#include "db/journal.h"

/* How long an operation waits for the VM to become free. */
/* Operations of one group may run beside each other; NONE excludes all, ALWAYS none. */
enum group { NONE, TAKING, READING, ALWAYS };

static const struct op_row {
	enum vm_operations op;
	const char *states; /* "Halted Paused ", in the order of the error */
	enum group group;
	bool template, snapshot;
} op_rows[] = {
#define S(state) #state " "
#define OP(op, states, group, template, snapshot)                                                  \
	{ vm_operations_##op, states, group, template, snapshot },
#include "api/operations.def"
};

static const struct op_row *op_row(enum vm_operations op)
{
	for (size_t i = 0; i < COUNT(op_rows); i++)
		if (op_rows[i].op == op)
			return &op_rows[i];
	return NULL;
}

static const char *op_text(enum vm_operations op)
{
	return enum_text("vm_operations", (int)op);
}

/* ---- the checks, in XenAPI's order ---- */

/* XenAPI writes states in lower case in this error. */
static char *lower(struct task *t, const char *s)
{
	char *copy = talloc_strdup(t, s);
	for (char *p = copy; *p; p++)
		*p |= 0x20;
	return copy;
}

int bad_power_state(struct task *t, const struct VM_row *vm, const char *expected)
{
	const char *now = enum_text("vm_power_state", vm->power_state);
	return fail(t, VM_BAD_POWER_STATE, vm->row.ref, expected, lower(t, now));
}

static int check_power_state(struct task *t, const struct VM_row *vm, const struct op_row *row)
{
	struct list states = list_split(t, row->states, ' ');
	if (list_has(&states, enum_text("vm_power_state", vm->power_state)))
		return 0;
	for (size_t i = 0; i < states.n; i++)
		states.v[i] = lower(t, states.v[i]);
	return bad_power_state(t, vm, list_join(t, &states, ", "));
}

static bool excludes(const struct op_row *mine, const struct map *running)
{
	if (mine->group == ALWAYS)
		return false;
	for (size_t i = 0; i < running->n; i++) {
		const struct op_row *other = op_row(
			(enum vm_operations)enum_value("vm_operations", running->v[i].value));
		if (!other || mine->group == NONE || other->group != mine->group)
			return true;
	}
	return false;
}

static int in_progress(struct task *t, const struct row *r, const struct map *running)
{
	return fail(t, OTHER_OPERATION_IN_PROGRESS, r->class->name, r->ref, running->v[0].value,
		    running->v[0].key);
}

static int check_blocked(struct task *t, const struct VM_row *vm, enum vm_operations op)
{
	const char *why = map_get(&vm->blocked_operations, op_text(op));
	return why ? fail(t, OPERATION_BLOCKED, vm->row.ref, why) : 0;
}

static int check_kind(struct task *t, const struct VM_row *vm, const struct op_row *row)
{
	if (row->op == vm_operations_destroy && vm_is_shipped(vm))
		return fail(t, VM_CANNOT_DELETE_DEFAULT_TEMPLATE, vm->row.ref);
	if (vm->is_a_template && !vm->is_a_snapshot && !row->template)
		return fail(t, VM_IS_TEMPLATE, vm->row.ref, op_text(row->op));
	if (vm->is_a_snapshot && !row->snapshot)
		return fail(t, VM_IS_SNAPSHOT, vm->row.ref, op_text(row->op));
	if (row->op == vm_operations_provision && !vm->is_a_template)
		return fail(t, PROVISION_ONLY_ALLOWED_ON_TEMPLATE);
	/* A copy of a checkpoint has no memory; a VM that is suspended wants its disks as they are. */
	if ((row->op == vm_operations_clone || row->op == vm_operations_copy) &&
	    vm->power_state == vm_power_state_Suspended && !vm->is_a_snapshot)
		return bad_power_state(t, vm, "halted");
	if (row->op == vm_operations_revert && !vm->is_a_snapshot)
		return fail(t, REVERT_ONLY_ALLOWED_ON_SNAPSHOT);
	return row->op == vm_operations_snapshot_with_quiesce ? quiesce_check(t, vm) : 0;
}

int operation_check(struct task *t, const struct VM_row *vm, enum vm_operations op)
{
	const struct op_row *row = op_row(op);
	if (!row)
		return fail(t, NOT_IMPLEMENTED, op_text(op));
	if (check_blocked(t, vm, op) < 0 || check_power_state(t, vm, row) < 0)
		return -1;
	if (excludes(row, &vm->current_operations))
		return in_progress(t, &vm->row, &vm->current_operations);
	return check_kind(t, vm, row);
}

/* ---- marking ---- */

static int mark(struct task *t, struct row *r, const char *op)
{
	map_set(r, field_map(r, model_field(r->class, "current_operations")), t->ref, op);
	return undo_operation_end(t, r->class->name, r->ref) < 0 ? -1 : db_put(t, r);
}

/* Marks the object.  1: marked; 0: busy, and the row says with what; -1: failed. */
typedef int try_fn(struct task *, const struct class *, const char *ref, const char *op,
		   struct row **ret);

static int try_vm(struct task *t, const struct class *c, const char *ref, const char *text,
		  struct row **ret)
{
	enum vm_operations op = (enum vm_operations)enum_value("vm_operations", text);
	(void)c;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, ref);
	if (!vm)
		return -1;
	if (operation_check(t, vm, op) < 0) {
		if (t->code != OTHER_OPERATION_IN_PROGRESS)
			return -1;
		task_forgive(t);
		*ret = &vm->row;
		return 0;
	}
	if (mark(t, &vm->row, text) < 0 || db_commit(t) < 0)
		return -1;
	*ret = &vm->row;
	return 1;
}

/* Those that only read the VM, or put layers under its disks, leave its drives alone. */
static bool takes_drives(const struct map *running)
{
	for (size_t i = 0; i < running->n; i++) {
		const struct op_row *row = op_row(
			(enum vm_operations)enum_value("vm_operations", running->v[i].value));
		if (!row || row->group == NONE || row->group == ALWAYS)
			return true;
	}
	return false;
}

static bool is_busy(const struct row *r)
{
	return field_map(r, model_field(r->class, "current_operations"))->n > 0;
}

static int try_device(struct task *t, const struct class *c, const char *ref, const char *op,
		      struct row **ret)
{
	DB_SCOPE(t);
	struct row *r = db_get_row(t, c, ref);
	struct VM_row *vm = r ? db_get(t, VM, field_text(t, r, model_field(c, "VM"))) : NULL;
	if (!vm)
		return -1;
	bool busy = is_busy(r);
	*ret = busy ? r : &vm->row;
	if (busy || takes_drives(&vm->current_operations))
		return 0;
	if (mark(t, r, op) < 0 || db_commit(t) < 0)
		return -1;
	*ret = r;
	return 1;
}

static struct row *begin(struct task *t, const struct class *c, const char *ref, const char *op,
			 try_fn *try)
{
	struct row *row;
	int64_t end = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	for (;;) {
		int64_t generation = db_generation();
		int marked = try(t, c, ref, op, &row);
		if (marked)
			return marked > 0 ? row : NULL;
		int left = (int)(end - clock_ms());
		if (left <= 0) {
			const struct field *f = model_field(row->class, "current_operations");
			in_progress(t, row, field_map(row, f));
			return NULL;
		}
		if (db_wait(t, generation, left) < 0)
			return NULL;
	}
}

struct VM_row *operation_begin(struct task *t, const char *ref, enum vm_operations op)
{
	return (struct VM_row *)begin(t, &class_VM, ref, op_text(op), try_vm);
}

struct row *operation_begin_device(struct task *t, const struct class *c, const char *ref,
				   const char *op)
{
	return begin(t, c, ref, op, try_device);
}

bool operation_take_device(struct task *t, const struct class *c, const char *ref, const char *op)
{
	DB_SCOPE(t);
	struct row *r = db_seek_row(t, c, ref);
	if (!r || is_busy(r))
		return false;
	return mark(t, r, op) == 0 && db_commit(t) == 0;
}

static bool goes_beside(enum vdi_operations op, const char *running)
{
	bool copies = streq(running, "copy"), clones = streq(running, "clone");
	return (op == vdi_operations_copy && (copies || clones)) ||
	       (op == vdi_operations_clone && copies);
}

bool vdi_is_free(const struct VDI_row *vdi, enum vdi_operations op)
{
	for (size_t i = 0; i < vdi->current_operations.n; i++)
		if (!goes_beside(op, vdi->current_operations.v[i].value))
			return false;
	return true;
}

/* ---- disks by themselves ---- */

static const struct vdi_op_row {
	enum vdi_operations op;
	enum need_deed deed;
	bool frozen, sharable, raw; /* may it be done with one? */
} vdi_op_rows[] = {
	{ vdi_operations_snapshot, NEED_LAYER, true, false, false },
	{ vdi_operations_clone, NEED_LAYER, true, false, false },
	{ vdi_operations_copy, NEED_READ, true, true, true },
	{ vdi_operations_resize, NEED_RESIZE, false, true, true },
	{ vdi_operations_resize_online, NEED_RESIZE_ONLINE, false, true, true },
	{ vdi_operations_destroy, NEED_REMOVE, true, true, true },
};

static const struct vdi_op_row *vdi_op_row(enum vdi_operations op)
{
	for (size_t i = 0; i < COUNT(vdi_op_rows); i++)
		if (vdi_op_rows[i].op == op)
			return &vdi_op_rows[i];
	return NULL;
}

/* Nothing that goes beside others harms, or is harmed by, what others do with a snapshot. */
static int check_free(struct task *t, const struct VDI_row *vdi, const struct vdi_op_row *row)
{
	bool beside = row->deed == NEED_READ || row->deed == NEED_LAYER;
	if ((vdi->is_a_snapshot && beside) || vdi_is_free(vdi, row->op))
		return 0;
	return in_progress(t, &vdi->row, &vdi->current_operations);
}

int operation_check_vdi(struct task *t, const struct VDI_row *vdi, enum vdi_operations op)
{
	const struct vdi_op_row *row = vdi_op_row(op);
	if (!row)
		return fail(t, NOT_IMPLEMENTED, enum_text("vdi_operations", (int)op));
	if (need_check(t, vdi, row->deed, enum_text("vdi_operations", (int)op)) < 0 ||
	    check_free(t, vdi, row) < 0)
		return -1;
	if (!vdi->managed)
		return fail(t, VDI_NOT_MANAGED, vdi->row.ref);
	if (storage_is_borrowed(t, vdi->SR))
		return fail(t, SR_OPERATION_NOT_SUPPORTED, vdi->SR);
	if (!row->frozen &&
	    (vdi->is_a_snapshot || vdi->read_only || storage_has_layers(t, vdi->location)))
		return fail(t, VDI_READONLY, vdi->row.ref);
	if (!row->sharable && vdi->sharable)
		return fail(t, VDI_IS_SHARABLE, vdi->row.ref);
	return !row->raw && vdi->raw ? sr_refuse_layer(t) : 0;
}

struct VDI_row *operation_begin_vdi(struct task *t, const char *ref, enum vdi_operations op)
{
	DB_SCOPE(t);
	struct VDI_row *vdi = db_get(t, VDI, ref);
	if (!vdi)
		return NULL;
	/* A frozen disk may be read by many at once, as a disc may. */
	bool frozen = vdi->is_a_snapshot || storage_is_borrowed(t, vdi->SR);
	bool reads = frozen && op == vdi_operations_copy;
	if (!reads && !vdi_is_free(vdi, op)) {
		in_progress(t, &vdi->row, &vdi->current_operations);
		return NULL;
	}
	if (mark(t, &vdi->row, enum_text("vdi_operations", (int)op)) < 0 || db_commit(t) < 0)
		return NULL;
	return vdi;
}

int operation_end(struct task *t)
{
	DB_SCOPE(t);
	for (struct journal_row *j = journal_rows(t, t->op); j->nr; j++) {
		if (!streq(j->verb, "OPERATION_END"))
			continue;
		struct row *r = db_seek_row(t, model_class(j->args.v[0]), j->args.v[1]);
		if (!r)
			continue;
		map_remove(field_map(r, model_field(r->class, "current_operations")), t->ref);
		if (db_put(t, r) < 0)
			return -1;
	}
	if (journal_drop(t) < 0)
		return -1;
	return db_commit(t);
}

/* ---- what is allowed ---- */

static struct list allowed_vm(struct task *t, const struct VM_row *vm)
{
	struct list l = { 0 };
	for (size_t i = 0; i < COUNT(op_rows); i++) {
		if (op_rows[i].op == vm_operations_reverting ||
		    op_rows[i].op == vm_operations_shutdown)
			continue; /* parts of calls, and none that a client begins */
		if (operation_check(t, vm, op_rows[i].op) == 0)
			list_add(t, &l, op_text(op_rows[i].op));
		task_forgive(t);
	}
	return l;
}

static struct list allowed_vdi(struct task *t, const struct VDI_row *vdi)
{
	struct list l = { 0 };
	for (size_t i = 0; i < COUNT(vdi_op_rows); i++) {
		enum vdi_operations op = vdi_op_rows[i].op;
		if (operation_check_vdi(t, vdi, op) == 0)
			list_add(t, &l, enum_text("vdi_operations", (int)op));
		task_forgive(t);
	}
	return l;
}

static void add_plug(struct task *t, struct list *l, bool attached, bool comes_off, bool goes_on)
{
	if (attached && comes_off)
		list_add(t, l, "unplug");
	if (!attached && goes_on)
		list_add(t, l, "plug");
}

static struct list allowed_vbd(struct task *t, const struct VBD_row *vbd)
{
	struct list l = { 0 };
	struct VM_row *vm = db_seek(t, VM, vbd->VM);
	if (!vm || vm->is_a_snapshot || vbd->current_operations.n)
		return l;
	if (vm->power_state == vm_power_state_Halted)
		list_add(t, &l, "attach");
	if (vbd->type == vbd_type_CD && vbd->empty && vm->power_state == vm_power_state_Suspended)
		return l; /* it gets no disc */
	if (vbd->type == vbd_type_CD)
		list_add(t, &l, vbd->empty ? "insert" : "eject");
	else if (vm->power_state == vm_power_state_Running && boot_hot_plugs_disks(vm))
		add_plug(t, &l, vbd->currently_attached, vbd->unpluggable, !vbd->empty);
	return l;
}

static struct list allowed_vif(struct task *t, const struct VIF_row *vif)
{
	struct list l = { 0 };
	struct VM_row *vm = db_seek(t, VM, vif->VM);
	if (!vm || vm->is_a_snapshot || vif->current_operations.n)
		return l;
	if (vm->power_state == vm_power_state_Halted)
		list_add(t, &l, "attach");
	if (vm->power_state == vm_power_state_Running)
		add_plug(t, &l, vif->currently_attached, true, true);
	return l;
}

static struct list allowed_vtpm(struct task *t, const struct VTPM_row *vtpm)
{
	struct list l = { 0 };
	struct VM_row *vm = db_seek(t, VM, vtpm->VM);
	if (vm && !vm->is_a_snapshot && vm->power_state == vm_power_state_Halted)
		list_add(t, &l, "destroy");
	return l;
}

struct list allowed_operations(struct task *t, const struct row *r)
{
	struct list none = { 0 };
	enum code before = t->code;
	if (before != NO_ERROR)
		return none;
	if (r->class == &class_VM)
		return allowed_vm(t, (const struct VM_row *)r);
	if (r->class == &class_VDI)
		return allowed_vdi(t, (const struct VDI_row *)r);
	if (r->class == &class_VBD)
		return allowed_vbd(t, (const struct VBD_row *)r);
	if (r->class == &class_VIF)
		return allowed_vif(t, (const struct VIF_row *)r);
	if (r->class == &class_VTPM)
		return allowed_vtpm(t, (const struct VTPM_row *)r);
	if (r->class == &class_task &&
	    ((const struct task_row *)r)->status == task_status_type_pending)
		list_add(t, &none, "cancel");
	return none;
}
