// SPDX-License-Identifier: Apache-2.0
#include "api/operation.h"

#include "api/boot.h"
#include "api/guests.h"
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

/* Operations of one group may run beside each other; NONE excludes all, ALWAYS none. */
enum group { NONE, TAKING, READING, ALWAYS };

static const struct op_row {
	enum vm_operations op;
	const char *states; /* "Halted Paused ", in the order of the error */
	enum group group;
	bool template, snapshot, devices;
} op_rows[] = {
#define S(state) #state " "
#define OP(op, states, group, template, snapshot, devices)                                         \
	{ vm_operations_##op, states, group, template, snapshot, devices },
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

static const struct op_row *running_row(const struct pair *running)
{
	return op_row((enum vm_operations)enum_value("vm_operations", running->value));
}

/* What mine cannot run beside; NULL: nothing. */
static const struct pair *excluding(const struct op_row *mine, const struct map *running)
{
	if (mine->group == ALWAYS)
		return NULL;
	for (size_t i = 0; i < running->n; i++) {
		const struct op_row *other = running_row(&running->v[i]);
		if (!other || mine->group == NONE || other->group != mine->group)
			return &running->v[i];
	}
	return NULL;
}

static int in_progress(struct task *t, const struct row *r, const struct pair *running)
{
	return fail(t, OTHER_OPERATION_IN_PROGRESS, r->class->name, r->ref, running->value,
		    running->key);
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
	const struct pair *other = excluding(row, &vm->current_operations);
	return other ? in_progress(t, &vm->row, other) : check_kind(t, vm, row);
}

/* ---- waiting ---- */

/* Each look has memory of its own: there may be many of them. */
static int look(struct task *t, operation_try *try, void *arg, bool last)
{
	struct task *part = task_part(t);
	int done = try(part, arg);
	if (done < 0 || (done == 0 && last)) {
		task_fail_params(t, part->code, part->params);
		t->place = talloc_strdup(t, part->place ? part->place : "-");
	}
	talloc_free(part);
	return done;
}

int operation_wait(struct task *t, operation_try *try, void *arg)
{
	int64_t end = clock_ms() + delay_ms(DELAY_OPERATION_PATIENCE);
	for (;;) {
		int64_t generation = db_generation();
		int64_t left = end - clock_ms();
		int done = look(t, try, arg, left <= 0);
		if (done)
			return done < 0 ? -1 : 0;
		if (left <= 0 || db_wait(t, generation, (int)left) < 0 ||
		    task_wait(t, -1, 0, delay_ms(DELAY_OPERATION_AGAIN)) < 0)
			return -1;
	}
}

int operation_tried(const struct task *t)
{
	return t->code == OTHER_OPERATION_IN_PROGRESS ? 0 : -1;
}

/* ---- marking ---- */

static int mark(struct task *t, struct row *r, const char *op)
{
	map_set(r, field_map(r, model_field(r->class, "current_operations")), t->ref, op);
	return undo_operation_end(t, r->class->name, r->ref) < 0 ? -1 : db_put(t, r);
}

/* An operation that is to begin. */
struct beginning {
	const struct class *class;
	const char *ref, *op;
	vdi_check *check; /* of a disk; may be NULL */
	const void *arg;
};

static struct row *begin(struct task *t, operation_try *try, struct beginning *b)
{
	return operation_wait(t, try, b) < 0 ? NULL : db_get_row(t, b->class, b->ref);
}

static int try_vm(struct task *t, void *arg)
{
	const struct beginning *b = arg;
	DB_SCOPE(t);
	struct VM_row *vm = db_get(t, VM, b->ref);
	if (!vm)
		return -1;
	if (operation_check(t, vm, (enum vm_operations)enum_value("vm_operations", b->op)) < 0)
		return operation_tried(t);
	return mark(t, &vm->row, b->op) < 0 || db_commit(t) < 0 ? -1 : 1;
}

/* What excludes nothing is for a VM that does not answer, too. */
struct VM_row *operation_begin(struct task *t, const char *ref, enum vm_operations op)
{
	const struct op_row *row = op_row(op);
	struct beginning b = { .class = &class_VM, .ref = ref, .op = op_text(op) };
	if ((!row || row->group != ALWAYS) && guest_await(t, ref) < 0)
		return NULL;
	return (struct VM_row *)begin(t, try_vm, &b);
}

/* ---- devices ---- */

/* What goes on in the VM beside which its devices stay; NULL: nothing. */
static const struct pair *keeping_devices(const struct map *running)
{
	for (size_t i = 0; i < running->n; i++) {
		const struct op_row *row = running_row(&running->v[i]);
		if (!row || !row->devices)
			return &running->v[i];
	}
	return NULL;
}

static const struct map *operations_of(const struct row *r)
{
	return field_map(r, model_field(r->class, "current_operations"));
}

static int try_device(struct task *t, void *arg)
{
	const struct beginning *b = arg;
	DB_SCOPE(t);
	struct row *r = db_get_row(t, b->class, b->ref);
	struct VM_row *vm = r ? db_get(t, VM, field_text(t, r, model_field(b->class, "VM"))) : NULL;
	if (!vm)
		return -1;
	const struct map *mine = operations_of(r);
	const struct pair *of_vm = keeping_devices(&vm->current_operations);
	if (mine->n || of_vm) {
		in_progress(t, mine->n ? r : &vm->row, mine->n ? &mine->v[0] : of_vm);
		return 0;
	}
	return mark(t, r, b->op) < 0 || db_commit(t) < 0 ? -1 : 1;
}

struct row *operation_begin_device(struct task *t, const struct class *c, const char *ref,
				   const char *op)
{
	struct beginning b = { .class = c, .ref = ref, .op = op };
	const struct row *r = db_get_row(t, c, ref);
	if (!r || guest_await(t, field_text(t, r, model_field(c, "VM"))) < 0)
		return NULL;
	return begin(t, try_device, &b);
}

bool operation_take_device(struct task *t, const struct class *c, const char *ref, const char *op)
{
	DB_SCOPE(t);
	struct row *r = db_seek_row(t, c, ref);
	if (!r || operations_of(r)->n)
		return false;
	return mark(t, r, op) == 0 && db_commit(t) == 0;
}

int operation_check_devices(struct task *t, const struct VM_row *vm)
{
	const struct pair *of_vm = keeping_devices(&vm->current_operations);
	return of_vm ? in_progress(t, &vm->row, of_vm) : 0;
}

static bool grows(const struct VDI_row *vdi)
{
	for (size_t i = 0; vdi && i < vdi->current_operations.n; i++)
		if (streq(vdi->current_operations.v[i].value, "resize_online"))
			return true;
	return false;
}

/* The drive itself, or its disk that grows; NULL: neither. */
static const struct row *busy_drive(struct task *t, const struct VBD_row *vbd)
{
	const struct VDI_row *vdi = db_seek(t, VDI, vbd->VDI);
	return vbd->current_operations.n ? &vbd->row : grows(vdi) ? &vdi->row : NULL;
}

/* A drive, its disk or an interface of the VM that somebody is busy with; NULL: none. */
static const struct row *busy_device(struct task *t, const char *vm)
{
	const struct row *busy;
	DB_EACH (t, VBD, vbd, "VM", vm)
		if ((busy = busy_drive(t, vbd)))
			return busy;
	DB_EACH (t, VIF, vif, "VM", vm)
		if (vif->current_operations.n)
			return &vif->row;
	return NULL;
}

static int try_devices(struct task *t, void *vm)
{
	const struct row *busy = busy_device(t, vm);
	if (!busy)
		return 1;
	in_progress(t, busy, &operations_of(busy)->v[0]);
	return 0;
}

int operation_wait_devices(struct task *t, const char *vm)
{
	return operation_wait(t, try_devices, (void *)(uintptr_t)vm);
}

/* ---- disks by themselves ---- */

static const struct vdi_op_row {
	enum vdi_operations op;
	enum need_deed deed;
	bool frozen, sharable, raw, layered; /* may it be done with one? */
} vdi_op_rows[] = {
	{ vdi_operations_snapshot, NEED_LAYER, true, false, false, true },
	{ vdi_operations_clone, NEED_LAYER, true, false, false, true },
	{ vdi_operations_copy, NEED_READ, true, true, true, true },
	{ vdi_operations_resize, NEED_RESIZE, false, true, true, true },
	{ vdi_operations_resize_online, NEED_RESIZE_ONLINE, false, true, true, true },
	{ vdi_operations_destroy, NEED_REMOVE, true, true, true, true },
	{ vdi_operations_forget, NEED_REMOVE, true, true, true, false },
};

static const struct vdi_op_row *vdi_op_row(enum vdi_operations op)
{
	for (size_t i = 0; i < COUNT(vdi_op_rows); i++)
		if (vdi_op_rows[i].op == op)
			return &vdi_op_rows[i];
	return NULL;
}

/* These read the disk, or put a layer over it.  What a copy reads is frozen by that, so it goes on reading what it
 * began with; a second layer at the same time would be over the same one. */
static bool is_layered_by(const char *op)
{
	return streq(op, "snapshot") || streq(op, "clone");
}

static bool goes_beside(const char *op, const char *running)
{
	bool copies = streq(op, "copy"), copied = streq(running, "copy");
	return (copies && (copied || is_layered_by(running))) || (copied && is_layered_by(op));
}

/* The content of a snapshot never changes, and that of a disc is somebody else's. */
static bool only_looks(const char *op)
{
	return streq(op, "copy") || streq(op, "revert_from") || is_layered_by(op);
}

static const struct pair *excluding_vdi(struct task *t, const struct VDI_row *vdi, const char *op)
{
	bool frozen = vdi->is_a_snapshot || storage_is_borrowed(t, vdi->SR);
	for (size_t i = 0; i < vdi->current_operations.n; i++) {
		const struct pair *running = &vdi->current_operations.v[i];
		bool beside = frozen && only_looks(op) && only_looks(running->value);
		if (!beside && !goes_beside(op, running->value))
			return running;
	}
	return NULL;
}

static int check_free(struct task *t, const struct VDI_row *vdi, enum vdi_operations op)
{
	const struct pair *other = excluding_vdi(t, vdi, enum_text("vdi_operations", (int)op));
	return other ? in_progress(t, &vdi->row, other) : 0;
}

/* Without its record nobody would know that it needs the layers below it, nor whom those over it need. */
static int check_alone(struct task *t, const struct VDI_row *vdi)
{
	if (*vdi->parent_location || storage_has_layers(t, vdi->location))
		return fail(t, OPERATION_NOT_ALLOWED,
			    "the disk shares layers with others, which would be deleted or merged "
			    "as if it were not there; xe vdi-copy makes one that shares nothing");
	return 0;
}

int operation_check_vdi(struct task *t, const struct VDI_row *vdi, enum vdi_operations op)
{
	const struct vdi_op_row *row = vdi_op_row(op);
	if (!row)
		return fail(t, NOT_IMPLEMENTED, enum_text("vdi_operations", (int)op));
	if (need_check(t, vdi, row->deed, enum_text("vdi_operations", (int)op)) < 0)
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
	if (!row->raw && vdi->raw)
		return sr_refuse_layer(t);
	return !row->layered && check_alone(t, vdi) < 0 ? -1 : check_free(t, vdi, op);
}

/* Who waits for himself waits in vain. */
int operation_mark_vdi(struct task *t, struct VDI_row *vdi, enum vdi_operations op)
{
	const char *text = enum_text("vdi_operations", (int)op);
	const struct pair *other = excluding_vdi(t, vdi, text);
	if (!other)
		return mark(t, &vdi->row, text) < 0 ? -1 : 1;
	in_progress(t, &vdi->row, other);
	return streq(other->key, t->ref) ? -1 : 0;
}

static int try_vdi(struct task *t, void *arg)
{
	const struct beginning *b = arg;
	DB_SCOPE(t);
	struct VDI_row *vdi = db_get(t, VDI, b->ref);
	if (!vdi)
		return -1;
	if (b->check && b->check(t, vdi, b->arg) < 0)
		return operation_tried(t);
	int marked = operation_mark_vdi(t, vdi,
					(enum vdi_operations)enum_value("vdi_operations", b->op));
	return marked <= 0 ? marked : db_commit(t) < 0 ? -1 : 1;
}

struct VDI_row *operation_begin_vdi(struct task *t, const char *ref, enum vdi_operations op,
				    vdi_check *check, const void *arg)
{
	struct beginning b = { .class = &class_VDI,
			       .ref = ref,
			       .op = enum_text("vdi_operations", (int)op),
			       .check = check,
			       .arg = arg };
	return (struct VDI_row *)begin(t, try_vdi, &b);
}

/* ---- the end ---- */

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
