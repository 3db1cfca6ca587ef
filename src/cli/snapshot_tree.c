// SPDX-License-Identifier: Apache-2.0
/* snapshot_tree.c -- the snapshots of a VM as a tree, and where the VM stands:
 *
 *     SNAPSHOT             TAKEN                 OWN       DELETING FREES  UUID
 *     o web
 *     * base               2026-01-31 12:00:00Z  1.0 GiB   0 bytes         6f0e...
 *     |-* first try        2026-01-31 12:10:00Z  20.0 MiB  20.0 MiB        11ab...
 *     * before upgrade     2026-01-31 12:20:00Z  3.0 MiB   up to 3.0 MiB   90cd...
 *     @ now (running)                            1.2 MiB                   0b1c...
 *     = shared layers                            1.6 GiB
 *
 * What goes on stands below in the same column, and so a hundred snapshots in a row take no more room than
 * one; what turned off stands one column to the right.  The line that leads to the VM is the straight
 * one.  `o` is the VM as it was made, before any snapshot.  What several of these stand on, and is nobody's own any more
 * since its snapshot was deleted, stands in the last line: so the figures add up to what the storage holds for the VM. */
#include "api/storage.h"
#include "cli/cli.h"

static command_fn snapshot_tree;

const struct command commands_tree[] = {
	{ "snapshot-tree", snapshot_tree, STANDARD | VM_SELECTORS | ONE_VM, "", "snapshot-uuid",
	  "Draws the snapshots of a VM as a tree, with what each holds on the storage and where "
	  "the "
	  "VM stands; snapshot-uuid=, instead of a VM, draws the tree that a snapshot is in, also "
	  "of a VM that is gone." },
	{ 0 },
};

enum { NAME_MAX_BYTES = 60, COLUMNS = 5 };

struct node {
	const struct VM_row *snapshot; /* NULL: the VM as it was made */
	struct node *parent;
	bool drawn;
	bool straight; /* on the way to where the VM stands */
};

struct line {
	const char *cells[COLUMNS];
};

struct tree {
	struct cli *c;
	const struct VM_row *vm; /* NULL: it is gone */
	struct node *stands;     /* the VM's parent; NULL when it is gone */
	size_t n;
	struct node *nodes; /* first the VM as it was made, the others in the order of birth */
	size_t nlines;
	struct line *lines;
};

/* ---- figures ---- */

struct figures {
	int64_t own;   /* bytes that its disks' volumes and its memory take */
	int64_t frees; /* the most that deleting it can give back */
	bool certain;  /* it gives back just that */
};

/* The layer below, if it is nobody's own: below somebody's own there is what he stands on. */
static const struct VDI_row *ownerless_below(struct task *t, const struct VDI_row *vdi)
{
	const struct VDI_row *below =
		*vdi->parent_location ? storage_owner(t, vdi->parent_location) : NULL;
	return below && !below->managed ? below : NULL;
}

/* The records of what stands on the volume. */
static struct row **layers_over(struct task *t, const struct VDI_row *vdi)
{
	return db_find(t, &class_VDI, "parent_location", vdi->location);
}

/* Of two layers one goes: what they had in common can be merged with the other, which gives back what that has
 * overwritten. */
static void add_common(struct task *t, struct figures *f, const struct VDI_row *vdi)
{
	const struct VDI_row *below = ownerless_below(t, vdi);
	struct row **over = below ? layers_over(t, below) : NULL;
	if (!over || !over[0] || !over[1] || over[2])
		return;
	const struct VDI_row *other =
		(const struct VDI_row *)over[streq(over[0]->ref, vdi->row.ref) ? 1 : 0];
	f->frees += below->physical_utilisation < other->physical_utilisation
			    ? below->physical_utilisation
			    : other->physical_utilisation;
	f->certain = false;
}

/* A volume with one layer over it can be merged with that, which gives back what that has overwritten; one with
 * several stays, as what they have in common. */
static void add_disk(struct task *t, struct figures *f, const struct VDI_row *vdi)
{
	struct row **over = layers_over(t, vdi);
	f->own += vdi->physical_utilisation;
	if (over[0] && over[1])
		return;
	f->frees += vdi->physical_utilisation;
	f->certain &= !over[0];
	if (!over[0])
		add_common(t, f, vdi);
}

/* A memory image may be one file with another's, of the VM that was suspended when it was taken. */
static void add_memory(struct figures *f, const struct VDI_row *vdi)
{
	f->own += vdi->physical_utilisation;
	f->frees += vdi->physical_utilisation;
	f->certain = false;
}

/* The references of what it writes and boots from, each once. */
static struct list disks_of(struct task *t, const struct VM_row *vm)
{
	struct list disks = { 0 };
	DB_EACH (t, VBD, vbd, "VM", vm->row.ref)
		if (vbd->type == vbd_type_Disk)
			list_put(t, &disks, vbd->VDI);
	list_put(t, &disks, vm->NVRAM_VDI);
	return disks;
}

static struct figures figures_of(struct task *t, const struct VM_row *vm)
{
	struct figures f = { .certain = true };
	struct list disks = disks_of(t, vm);
	for (size_t i = 0; i < disks.n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, disks.v[i]);
		if (vdi)
			add_disk(t, &f, vdi);
	}
	const struct VDI_row *memory = db_seek(t, VDI, vm->suspend_VDI);
	if (memory)
		add_memory(&f, memory);
	return f;
}

/* The references of the layers below its disks that are nobody's own. */
static void add_shared(struct task *t, struct list *shared, const struct VM_row *vm)
{
	struct list disks = disks_of(t, vm);
	for (size_t i = 0; i < disks.n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, disks.v[i]);
		while (vdi && (vdi = ownerless_below(t, vdi)) && !list_has(shared, vdi->row.ref))
			list_add(t, shared, vdi->row.ref);
	}
}

static int64_t size_of(struct task *t, const struct list *vdis)
{
	int64_t bytes = 0;
	for (size_t i = 0; i < vdis->n; i++) {
		const struct VDI_row *vdi = db_seek(t, VDI, vdis->v[i]);
		bytes += vdi ? vdi->physical_utilisation : 0;
	}
	return bytes;
}

/* "2026-01-31 12:34:56Z" of 20260131T12:34:56Z */
static const char *time_shown(struct task *t, const char *time)
{
	return text_is_time(time) ? str(t, "%.4s-%.2s-%.2s %s", time, time + 4, time + 6, time + 9)
				  : time;
}

/* ---- drawing ---- */

static struct line *line_new(struct tree *tree, const char *mark, const char *name)
{
	struct task *t = tree->c->t;
	tree->lines = talloc_realloc(t, tree->lines, struct line, tree->nlines + 1);
	struct line *l = &tree->lines[tree->nlines++];
	for (size_t i = 0; i < COLUMNS; i++)
		l->cells[i] = "";
	l->cells[0] = str(t, "%s%s", mark, text_plain(t, name, NAME_MAX_BYTES));
	return l;
}

static void draw_snapshot(struct tree *tree, const char *mark, const struct VM_row *snapshot)
{
	struct task *t = tree->c->t;
	struct figures f = figures_of(t, snapshot);
	const char *frees = size_str(t, (uint64_t)f.frees);
	struct line *l = line_new(tree, str(t, "%s* ", mark), snapshot->name_label);
	l->cells[1] = time_shown(t, snapshot->snapshot_time);
	l->cells[2] = size_str(t, (uint64_t)f.own);
	l->cells[3] = f.certain || !f.frees ? frees : str(t, "up to %s", frees);
	l->cells[4] = snapshot->uuid;
}

static void draw_beginning(struct tree *tree)
{
	const struct VM_row *any = tree->vm ? tree->vm : tree->nodes[1].snapshot;
	struct task *t = tree->c->t;
	line_new(tree, "o ", tree->vm ? any->name_label : str(t, "a VM that is gone"));
}

static void draw_now(struct tree *tree, const char *mark)
{
	struct task *t = tree->c->t;
	const char *state =
		column_text(t, view_column(view_find("vm"), "power-state"), &tree->vm->row);
	struct line *l = line_new(tree, str(t, "%s@ ", mark), str(t, "now (%s)", state));
	l->cells[2] = size_str(t, (uint64_t)figures_of(t, tree->vm).own);
	l->cells[4] = tree->vm->uuid;
}

static void draw_shared(struct tree *tree)
{
	struct task *t = tree->c->t;
	struct list shared = { 0 };
	if (tree->vm)
		add_shared(t, &shared, tree->vm);
	for (size_t i = 1; i < tree->n; i++)
		add_shared(t, &shared, tree->nodes[i].snapshot);
	if (shared.n)
		line_new(tree, "= ", "shared layers")->cells[2] =
			size_str(t, (uint64_t)size_of(t, &shared));
}

/* ---- the tree ---- */

/* One whose parent is none of the VM's snapshots stands at the beginning. */
static struct node *parent_of(struct tree *tree, const struct VM_row *vm)
{
	for (size_t i = 1; i < tree->n; i++)
		if (streq(tree->nodes[i].snapshot->row.ref, vm->parent))
			return &tree->nodes[i];
	return &tree->nodes[0];
}

static bool is_child(const struct node *child, const struct node *parent)
{
	return !child->drawn && child->parent == parent;
}

/* The child that the straight line goes on with, NULL: none. */
static struct node *heir_of(struct tree *tree, const struct node *node)
{
	struct node *heir = NULL;
	for (size_t i = 1; i < tree->n; i++)
		if (is_child(&tree->nodes[i], node) && !(heir && heir->straight))
			heir = &tree->nodes[i];
	return heir;
}

/* mark: what stands before it; below: what stands before the lines below it. */
static void draw(struct tree *tree, struct node *node, const char *mark, const char *below)
{
	struct task *t = tree->c->t;
	for (; node; mark = below) {
		if (node->snapshot)
			draw_snapshot(tree, mark, node->snapshot);
		else
			draw_beginning(tree);
		node->drawn = true;
		bool here = tree->stands == node;
		struct node *heir = here ? NULL : heir_of(tree, node);
		for (size_t i = 1; i < tree->n; i++)
			if (&tree->nodes[i] != heir && is_child(&tree->nodes[i], node))
				draw(tree, &tree->nodes[i], str(t, "%s|-", below),
				     str(t, "%s| ", below));
		if (here)
			draw_now(tree, below);
		node = heir;
	}
}

static void collect(struct tree *tree, const char *vm_ref)
{
	struct task *t = tree->c->t;
	struct row **rows = db_find(t, &class_VM, "snapshot_of", vm_ref);
	while (rows[tree->n])
		tree->n++;
	tree->nodes = talloc_zero_array(t, struct node, ++tree->n);
	for (size_t i = 1; i < tree->n; i++)
		tree->nodes[i].snapshot = (const struct VM_row *)rows[i - 1];
	for (size_t i = 1; i < tree->n; i++)
		tree->nodes[i].parent = parent_of(tree, tree->nodes[i].snapshot);
	tree->stands = tree->vm ? parent_of(tree, tree->vm) : NULL;
	for (struct node *n = tree->stands; n && !n->straight; n = n->parent)
		n->straight = true;
}

/* ---- printing ---- */

/* Characters, not bytes. */
static size_t width(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

static void print_lines(struct tree *tree)
{
	size_t widest[COLUMNS] = { 0 };
	for (size_t i = 0; i < tree->nlines; i++)
		for (size_t k = 0; k < COLUMNS; k++) {
			size_t w = width(tree->lines[i].cells[k]);
			widest[k] = w > widest[k] ? w : widest[k];
		}
	for (size_t i = 0; i < tree->nlines; i++) {
		char *text = talloc_strdup(tree->c->t, "");
		for (size_t k = 0, gap = 0; k < COLUMNS; k++) {
			const char *cell = tree->lines[i].cells[k];
			if (*cell)
				text = talloc_asprintf_append(text, "%*s%s", (int)gap, "", cell);
			gap = (*cell ? 0 : gap) + widest[k] - width(cell) + 2;
		}
		cli_print(tree->c, text);
	}
}

static void head(struct tree *tree)
{
	struct line *l = line_new(tree, "", "SNAPSHOT");
	l->cells[1] = "TAKEN";
	l->cells[2] = "OWN";
	l->cells[3] = "DELETING FREES";
	l->cells[4] = "UUID";
}

/* With --minimal the snapshots' uuids, a parent before its children. */
static int draw_tree(struct cli *c, const struct VM_row *vm, const char *ref)
{
	struct tree tree = { .c = c, .vm = vm };
	collect(&tree, ref);
	head(&tree);
	draw(&tree, &tree.nodes[0], "", "");
	draw_shared(&tree);
	print_lines(&tree);
	for (size_t i = 1; c->minimal && i < tree.nlines; i++)
		if (*tree.lines[i].cells[1])
			cli_value(c, tree.lines[i].cells[4]);
	return 0;
}

static int draw_vm(struct cli *c, struct VM_row *vm)
{
	return draw_tree(c, vm, vm->row.ref);
}

static int snapshot_tree(struct cli *c)
{
	if (!cli_arg(c, "snapshot-uuid"))
		return for_vms(c, draw_vm);
	struct VM_row *snapshot = cli_object(c, VM, "snapshot-uuid");
	if (!snapshot)
		return -1;
	if (!snapshot->is_a_snapshot || ref_is_null(snapshot->snapshot_of))
		return cli_fail(c, "%s is not a VM snapshot.", snapshot->uuid);
	return draw_tree(c, db_seek(c->t, VM, snapshot->snapshot_of), snapshot->snapshot_of);
}
