// SPDX-License-Identifier: Apache-2.0
#include "api/tree.h"

#include "api/storage.h"
#include "api/vm.h"
#include "base/task.h"
#include "db/db.h"
#include "sr/sr.h"
#include "vmm/vmm.h"

enum {
	CHAIN_MAX = 30,          /* unless SR.other_config:chain-max says other */
	EXTENTS_MAX = 20000,     /* a clone of more pieces would take more than half a second */
	SPARE = 64 << 20,        /* bytes that no merge may take: guests write too */
	FREEZE_FROM = 256 << 20, /* that a merge down from the top must cost more */
};

/* ---- reading ---- */

static struct tree_node *node_new(struct task *t, struct VDI_row *vdi, struct tree_node *parent)
{
	struct tree_node *n = talloc_zero(t, struct tree_node);
	n->vdi = vdi;
	n->hidden = !vdi->managed;
	n->bytes = (uint64_t)vdi->physical_utilisation;
	n->vm = n->disk = "";
	n->parent = parent;
	n->depth = parent ? parent->depth + 1 : 0;
	return n;
}

/* The drive has the node open, and all below it. */
static void note_open(struct tree_node *n, const char *vm, const char *disk, bool writes)
{
	n->top |= writes;
	n->fixed |= !writes;
	for (; n; n = n->parent) {
		n->shared |= *n->vm && !streq(n->vm, vm);
		n->vm = vm;
		n->disk = disk;
	}
}

/* A suspended VM keeps its disks from others, but no process has them open. */
static bool is_open_in(struct task *t, const char *vm_ref)
{
	const struct VM_row *vm = db_seek(t, VM, vm_ref);
	return vm && vm->power_state != vm_power_state_Suspended;
}

static void find_users(struct task *t, struct tree_node *n)
{
	const char *ref = n->vdi->row.ref;
	DB_EACH (t, VBD, vbd, "VDI", ref)
		if (vbd->currently_attached && is_open_in(t, vbd->VM))
			note_open(n, vbd->VM, vbd_device_id(t, vbd->userdevice),
				  vbd->mode == vbd_mode_RW && !n->vdi->is_a_snapshot);
	DB_EACH (t, VM, vm, "NVRAM_VDI", ref)
		if (vm->NVRAM_open)
			note_open(n, vm->row.ref, VMM_NVRAM, true);
}

/* Children behind all that is there already; returns the last node of the list. */
static struct tree_node *add_children(struct task *t, struct tree_node *n, struct tree_node *last)
{
	DB_EACH (t, VDI, vdi, "parent_location", n->vdi->location) {
		struct tree_node *child = node_new(t, vdi, n);
		child->sibling = n->child;
		n->child = child;
		n->children++;
		last = last->next = child;
	}
	return last;
}

static struct VDI_row *root_of(struct task *t, const char *volume)
{
	struct VDI_row *vdi = storage_owner(t, volume), *below = vdi;
	for (int i = 0; below && i < 10000; i++) {
		vdi = below;
		below = *vdi->parent_location ? storage_owner(t, vdi->parent_location) : NULL;
	}
	return vdi;
}

const char *tree_root(struct task *t, const char *volume)
{
	DB_SCOPE(t);
	const struct VDI_row *root = root_of(t, volume);
	return root ? root->location : "";
}

static unsigned chain_max(struct task *t, const char *sr)
{
	const struct SR_row *row = db_seek(t, SR, sr);
	const char *said = row ? map_get(&row->other_config, "chain-max") : NULL;
	int64_t n;
	return said && text_int(said, &n) && n >= 2 && n <= 1000 ? (unsigned)n : CHAIN_MAX;
}

struct tree *tree_read(struct task *t, const char *volume)
{
	DB_SCOPE(t);
	struct VDI_row *root = root_of(t, volume);
	const struct sr *sr = root ? storage_sr(t, root->SR) : NULL;
	if (!sr)
		return NULL;
	struct tree *tree = talloc(t, struct tree);
	*tree = (struct tree){ root->SR, sr, node_new(t, root, NULL), chain_max(t, root->SR) };
	struct tree_node *last = tree->root;
	for (struct tree_node *n = tree->root; n; n = n->next)
		last = add_children(t, n, last);
	for (struct tree_node *n = tree->root; n; n = n->next)
		find_users(t, n);
	return tree;
}

struct tree_node *tree_find(const struct tree *tree, const char *volume)
{
	struct tree_node *n = tree->root;
	while (n && !streq(n->vdi->location, volume))
		n = n->next;
	return n;
}

struct list tree_chain(struct task *t, const char *volume)
{
	struct list chain = { 0 };
	DB_SCOPE(t);
	for (const char *v = volume; *v && chain.n < 10000;) {
		const struct VDI_row *vdi = storage_owner(t, v);
		list_add(t, &chain, v);
		v = vdi ? vdi->parent_location : "";
	}
	return chain;
}

/* ---- what could be done ---- */

/* Hidden, and needed by one layer only. */
static bool is_spare(const struct tree_node *n)
{
	return n && n->hidden && n->children == 1;
}

uint64_t tree_backlog(const struct tree *tree)
{
	uint64_t bytes = 0;
	for (const struct tree_node *n = tree->root; n; n = n->next)
		if (is_spare(n))
			bytes += n->bytes;
	return bytes;
}

/* As the storage says now: what a guest writes grows. */
static uint64_t bytes_of(struct task *t, const struct tree *tree, const struct tree_node *n)
{
	struct task *own = task_new(t, t->name);
	struct volume v;
	bool known = tree->sr->layout->stat(own, tree->sr, n->vdi->location, &v) == 0;
	uint64_t bytes = known ? v.physical_size : n->bytes;
	talloc_free(own);
	return bytes;
}

static uint64_t space_left(struct task *t, const struct tree *tree)
{
	struct task *own = task_new(t, t->name);
	uint64_t total, left = 0;
	if (tree->sr->layout->space(own, tree->sr, &total, &left) < 0)
		left = 0;
	talloc_free(own);
	return left;
}

struct choice {
	struct step best; /* STEP_NONE: nothing yet */
	const char *why;
};

static void offer(struct choice *c, const struct step *s)
{
	if (c->best.kind == STEP_NONE || s->cost < c->best.cost)
		c->best = *s;
}

static const char *top_over(const struct tree *tree, const struct tree_node *n)
{
	for (const struct tree_node *top = tree->root; *n->vm && top; top = top->next)
		if (top->top && streq(top->vm, n->vm) && streq(top->disk, n->disk))
			return top->vdi->location;
	return "";
}

static struct step step_new(const struct tree *tree, enum step_kind kind, const struct tree_node *n)
{
	return (struct step){
		.kind = kind,
		.sr = tree->sr_ref,
		.upper = n->vdi->location,
		.lower = "",
		.above = "",
		.top = top_over(tree, n),
		.vm = n->vm,
		.disk = n->disk,
		.into_top = n->top,
	};
}

/* ---- merges ---- */

/* No more can be copied than there is to be seen. */
static struct step capped(struct step s, const struct tree_node *upper)
{
	if (s.cost > (uint64_t)upper->vdi->virtual_size)
		s.cost = (uint64_t)upper->vdi->virtual_size;
	return s;
}

static struct step merge_up(struct task *t, const struct tree *tree, const struct tree_node *upper,
			    const struct tree_node *lower)
{
	struct step s = step_new(tree, STEP_MERGE, upper);
	s.lower = lower ? lower->vdi->location : "";
	for (const struct tree_node *n = upper->parent; n != lower; n = n->parent) {
		list_add(t, &s.dropped, n->vdi->location);
		s.cost += bytes_of(t, tree, n);
	}
	return capped(s, upper);
}

static struct step merge_down(struct task *t, const struct tree *tree,
			      const struct tree_node *upper, const struct tree_node *lower)
{
	struct step s = step_new(tree, STEP_MERGE, upper);
	s.down = true;
	s.lower = lower->vdi->location;
	s.above = upper->child ? upper->child->vdi->location : "";
	for (const struct tree_node *n = upper; n != lower; n = n->parent) {
		list_add(t, &s.dropped, n->vdi->location);
		s.cost += bytes_of(t, tree, n);
	}
	return capped(s, upper);
}

/* Which ways are open:
 *
 * Down is safe everywhere: what is half copied is hidden by the layer above.  But it keeps a running disk
 * from being switched.  Up writes into a layer that shows what it gets: when the power goes the tables must
 * not be on the disk without the data.  A job of QEMU waits for us between the two, but a guest's flushes do
 * not: so never up into the top, which is frozen first where down would be far more.  Offline it is done to a
 * clone of the file, where there are clones. */
static bool may_go_up(const struct tree *tree, const struct tree_node *upper)
{
	return !upper->top && (*upper->vm || tree->sr->reflink);
}

static bool may_go_down(const struct tree_node *upper)
{
	return upper->children <= 1 || !*upper->vm;
}

/* Down holds the disk's switches up, and begins anew after each; but what files share they go on sharing. */
static bool is_better_down(const struct tree *tree, const struct step *up, const struct step *down)
{
	return down->cost * (tree->sr->reflink ? 1 : 2) < up->cost;
}

/* The overlay is merged down again at the end, for little. */
static struct step freeze(const struct tree *tree, const struct tree_node *top,
			  const struct step *up)
{
	struct step s = step_new(tree, STEP_FREEZE, top);
	s.cost = up->cost;
	return s;
}

/* Where little is left, a little may be taken: small merges are what gives it back. */
static bool fits(const struct step *s, uint64_t left)
{
	uint64_t spare = left / 4 < SPARE ? left / 4 : SPARE;
	return s->cost + spare <= left;
}

static struct step choose(struct task *t, const struct tree *tree, const struct tree_node *upper,
			  const struct step *up, const struct step *down, uint64_t left)
{
	bool can_up = may_go_up(tree, upper), can_down = may_go_down(upper);
	/* Much larger than what is below it, as heavy_one() wants it to be when it is frozen. */
	bool heavy = upper->top && bytes_of(t, tree, upper) > 4 * up->cost + FREEZE_FROM;
	if (heavy && fits(up, left))
		return freeze(tree, upper, up);
	if (can_up && can_down)
		return is_better_down(tree, up, down) && fits(down, left) ? *down : *up;
	return can_down ? *down : *up;
}

/* The layer of the run that stands on its lowest one. */
static const struct tree_node *second(const struct tree_node *upper, const struct tree_node *lowest)
{
	while (upper->parent != lowest)
		upper = upper->parent;
	return upper;
}

/* Where one of a run is much larger than what is below it, that goes up into it before the rest goes down. */
static const struct tree_node *heavy_one(struct task *t, const struct tree *tree,
					 const struct tree_node *highest,
					 const struct tree_node *lowest)
{
	const struct tree_node *heavy = NULL, *n = lowest;
	uint64_t below = 0, bytes = bytes_of(t, tree, n);
	while (n != highest) {
		below += bytes;
		n = n->child;
		bytes = bytes_of(t, tree, n);
		uint64_t visible = (uint64_t)n->vdi->virtual_size;
		uint64_t cost = below < visible ? below : visible;
		if (may_go_up(tree, n) && bytes > 4 * cost + FREEZE_FROM / 2)
			heavy = n;
	}
	return heavy;
}

/* The run of spare layers below a node that is none, as one merge. */
static void offer_merge(struct task *t, const struct tree *tree, const struct tree_node *upper,
			uint64_t left, struct choice *c)
{
	const struct tree_node *lowest = upper->parent;
	if (is_spare(upper) || !is_spare(lowest) || upper->fixed)
		return;
	while (is_spare(lowest->parent))
		lowest = lowest->parent;
	if (upper->shared) {
		c->why = "more than one running VM has a layer open";
		return;
	}
	if (*upper->vm && !*top_over(tree, upper)) {
		c->why = "a running VM has a layer open, of a disk that it only reads";
		return;
	}
	const struct tree_node *heavy = heavy_one(t, tree, upper->parent, lowest);
	struct step up = merge_up(t, tree, heavy ? heavy : upper, lowest->parent);
	struct step down = merge_down(t, tree, upper, lowest);
	struct step s = heavy ? up : choose(t, tree, upper, &up, &down, left);
	if (!fits(&s, left) && upper->parent != lowest)
		s = merge_down(t, tree, second(upper, lowest), lowest); /* a little at a time */
	if (fits(&s, left))
		offer(c, &s);
	else
		c->why = "there is no room to merge in";
}

/* ---- long chains ---- */

/* Layers below the node that will still be there when what is spare has been merged. */
static unsigned lasting_depth(const struct tree_node *n)
{
	unsigned depth = 0;
	for (n = n->parent; n; n = n->parent)
		depth += !is_spare(n);
	return depth;
}

/* What the chain keeps at its lower end. */
static const struct tree_node *keep_below(const struct tree *tree, const struct tree_node *n)
{
	while (n && n->depth > tree->chain_max / 3)
		n = n->parent;
	return n;
}

/* The layer below the top gets what the older ones hold, so that the top does not become busy. */
static struct step shorten(struct task *t, const struct tree *tree, const struct tree_node *top)
{
	const struct tree_node *upper = top->parent->shared ? top : top->parent;
	struct step up = merge_up(t, tree, upper, keep_below(tree, upper));
	return upper == top ? freeze(tree, top, &up) : up;
}

static void offer_shorter(struct task *t, const struct tree *tree, const struct tree_node *top,
			  uint64_t left, struct choice *c)
{
	if (!top->top || lasting_depth(top) <= tree->chain_max)
		return;
	struct step s = shorten(t, tree, top);
	if (top->shared)
		c->why = "more than one running VM has a layer open";
	else if (!fits(&s, left))
		c->why = "there is no room to shorten a chain in";
	else
		offer(c, &s);
}

int tree_price(struct task *t, const struct VDI_row *vdi, uint64_t *ret)
{
	*ret = 0;
	if (tree_chain(t, vdi->location).n <= chain_max(t, vdi->SR))
		return 0;
	struct tree *tree = tree_read(t, vdi->location);
	struct tree_node *n = tree ? tree_find(tree, vdi->location) : NULL;
	if (!n)
		return t->code == NO_ERROR ? 0 : -1;
	if (tree->sr->reflink || lasting_depth(n) + 1 <= tree->chain_max || !n->parent)
		return 0;
	uint64_t cost = merge_up(t, tree, n, keep_below(tree, n)).cost, left = space_left(t, tree);
	cost += bytes_of(t, tree, n);
	if (cost + SPARE > left)
		return fail(t, SR_BACKEND_FAILURE_44, "",
			    str(t,
				"There is insufficient space [opterr=the disk has %u layers, of %u "
				"at most: a further snapshot needs %llu bytes to shorten them, and "
				"%llu are free.  Delete snapshots, or make room]",
				lasting_depth(n), tree->chain_max, (unsigned long long)cost,
				(unsigned long long)left),
			    "");
	*ret = cost;
	return 0;
}

/* ---- clones instead of chains ---- */

/* Is it worth its time? */
static bool clones_well(struct task *t, const struct tree *tree, const struct tree_node *n)
{
	struct task *own = task_new(t, t->name);
	uint64_t extents = EXTENTS_MAX + 1;
	bool known = tree->sr->layout->extents(own, tree->sr, n->vdi->location, EXTENTS_MAX + 1,
					       &extents) == 0;
	talloc_free(own);
	return known && extents <= EXTENTS_MAX;
}

/* A layer that no process has open can be told that it stands on another volume. */
static const struct tree_node *closed_child(const struct tree_node *n)
{
	const struct tree_node *child = n->child;
	while (child && *child->vm)
		child = child->sibling;
	return child;
}

/* Only at the root: what stands on others becomes a root by merges first. */
static void offer_clone(struct task *t, const struct tree *tree, struct choice *c)
{
	const struct tree_node *root = tree->root, *child = closed_child(root);
	struct step s;
	if (!tree->sr->reflink || !tree->sr->layout->clone || !root->child || root->fixed ||
	    is_spare(root) || !clones_well(t, tree, root))
		return;
	if (root->children == 1)
		s = step_new(tree, STEP_SPLIT, root);
	else if (child)
		s = step_new(tree, STEP_DETACH, child);
	else
		return;
	offer(c, &s);
}

/* ---- the choice ---- */

struct step tree_next(struct task *t, const struct tree *tree, const char **ret_why)
{
	struct choice c = { .why = "" };
	uint64_t left = space_left(t, tree);
	if (tree->sr->layout->merge)
		for (const struct tree_node *n = tree->root; n; n = n->next) {
			offer_merge(t, tree, n, left, &c);
			offer_shorter(t, tree, n, left, &c);
		}
	offer_clone(t, tree, &c);
	*ret_why = c.why;
	return c.best;
}

/* Each layer over the upper one of a merge down gets another parent, in its record and in its header. */
static void claim_layers(struct task *t, const char *volume, struct list *claims)
{
	DB_EACH (t, VDI, layer, "parent_location", volume)
		list_put(t, claims, layer->location);
}

struct list tree_claims(struct task *t, const struct step *s)
{
	struct list claims = { 0 };
	list_put(t, &claims, s->upper);
	if (s->kind != STEP_MERGE || !s->down)
		return claims;
	const char *const more[] = { s->lower, s->above, s->top };
	for (size_t i = 0; i < COUNT(more); i++)
		if (*more[i])
			list_put(t, &claims, more[i]);
	for (size_t i = 0; i < s->dropped.n; i++)
		list_put(t, &claims, s->dropped.v[i]);
	claim_layers(t, s->upper, &claims);
	return claims;
}
