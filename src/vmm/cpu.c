// SPDX-License-Identifier: Apache-2.0
#include "vmm/cpu.h"

#include "base/json.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/qmp.h"

enum { NAME_MAX_BYTES = 64, TEXT_MAX_BYTES = 64, PROPS_MAX = 2000 };
#define TYPE_END "-x86_64-cpu" /* of a model's type */
#define PHYS_BITS "phys-bits"

/* What QEMU's list of features leaves out, and a guest may see: the numbers of leaves that CPUID has, how long an
 * address is, the counters of the PMU, the version of AVX10. */
static const struct {
	const char *name;
	bool young; /* without a value it is not told: QEMU 9.1 does not know the name */
} more[] = {
	{ "level", false },           { "xlevel", false }, { PHYS_BITS, false },
	{ "guest-phys-bits", false }, { "pmu", false },    { "avx10-version", true },
};

static const char *const parts[] = { "props", "more" };

/* ---- what may be in it ---- */

static bool is_name(const char *s)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
	size_t n = strlen(s);
	return n && n <= NAME_MAX_BYTES && strspn(s, letters) == n;
}

/* As CPUID has it: letters of ASCII, and no more than fit. */
static bool is_text(const char *s)
{
	size_t n = strlen(s);
	for (size_t i = 0; i < n; i++)
		if (s[i] < ' ' || s[i] > '~')
			return false;
	return n <= TEXT_MAX_BYTES;
}

static bool is_value(const json_t *v)
{
	return json_is_boolean(v) || json_is_integer(v) ||
	       (json_is_string(v) && is_text(json_string_value(v)));
}

static bool are_props(const json_t *props)
{
	const char *name;
	json_t *v;
	if (!json_is_object(props) || json_object_size(props) > PROPS_MAX)
		return false;
	json_object_foreach ((json_t *)(uintptr_t)props, name, v)
		if (!is_name(name) || !is_value(v))
			return false;
	return true;
}

int cpu_check(struct task *t, const json_t *cpu)
{
	const char *model = json_string_value(json_object_get(cpu, "model"));
	bool good = model && is_name(model);
	for (size_t i = 0; i < COUNT(parts); i++)
		good &= are_props(json_object_get(cpu, parts[i]));
	return good ? 0 : fail(t, INTERNAL_ERROR, "This is no description of a VM's CPU");
}

/* ---- asking ---- */

/* The type of the VM's CPUs, and the name of one of them in QEMU's tree. */
static int find(struct task *t, struct qmp *q, const char **ret_model, const char **ret_path)
{
	struct qmp_call c = { .command = "query-hotpluggable-cpus", .query = true };
	const char *type = NULL, *path = NULL;
	if (qmp_call(t, q, &c) < 0)
		return -1;
	for (size_t i = 0; !path && i < json_array_size(c.ret); i++) {
		const json_t *one = json_array_get(c.ret, i);
		type = json_string_value(json_object_get(one, "type"));
		path = json_string_value(json_object_get(one, "qom-path"));
	}
	if (!type || !path || !ends_with(type, TYPE_END))
		return fail(t, INTERNAL_ERROR, "QEMU does not tell of the VM's CPU");
	*ret_model = talloc_strndup(t, type, strlen(type) - strlen(TYPE_END));
	*ret_path = path;
	return 0;
}

/* The answer has the form of ours.  What was said to QEMU of the model when it was started holds here, too. */
static int expand(struct task *t, struct qmp *q, const char *model, json_t **ret)
{
	struct qmp_call c = { .command = "query-cpu-model-expansion", .query = true };
	c.arguments = json_pack("{s:s, s:{s:s}}", "type", "static", "model", "name", model);
	if (qmp_call(t, q, &c) < 0)
		return -1;
	*ret = json_object_get(c.ret, "model");
	return 0;
}

/* NULL: it has no such property. */
static json_t *property(struct task *t, struct qmp *q, const char *path, const char *name)
{
	struct task *try = task_part(t);
	struct qmp_call c = { .command = "qom-get", .query = true };
	c.arguments = json_pack("{s:s, s:s}", "path", path, "property", name);
	json_t *value = qmp_call(try, q, &c) < 0 ? NULL : json_own(t, json_incref(c.ret));
	talloc_free(try);
	return value;
}

static json_t *what_else(struct task *t, struct qmp *q, const char *path)
{
	json_t *found = json_own(t, json_object());
	for (size_t i = 0; i < COUNT(more); i++) {
		json_t *value = property(t, q, path, more[i].name);
		if (value && (!more[i].young || json_integer_value(value)))
			json_object_set(found, more[i].name, value);
	}
	return found;
}

/* What the model is called by is in that list as it is before QEMU makes a CPU of it: family 0, where QEMU then puts
 * in what goes with the features (QEMU 10.0, max_x86_cpu_realize). */
static void put_right(struct task *t, struct qmp *q, const char *path, json_t *props)
{
	const char *name;
	json_t *told;
	json_object_foreach (props, name, told) {
		json_t *is = json_is_boolean(told) ? NULL : property(t, q, path, name);
		if (is)
			json_object_set(props, name, is);
	}
}

/* A feature that the model has by its name, and the CPU has not, since something else is missing. */
static void take_out(json_t *props, const json_t *unavailable)
{
	for (size_t i = 0; i < json_array_size(unavailable); i++) {
		const char *name = json_string_value(json_array_get(unavailable, i));
		if (name && json_object_get(props, name))
			json_object_set_new(props, name, json_false());
	}
}

int cpu_ask(struct task *t, struct qmp *q, json_t **ret)
{
	const char *model = NULL, *path = NULL;
	json_t *is = NULL;
	if (find(t, q, &model, &path) < 0 || expand(t, q, model, &is) < 0)
		return -1;
	json_t *props = json_object_get(is, "props");
	put_right(t, q, path, props);
	take_out(props, property(t, q, path, "unavailable-features"));
	json_t *cpu =
		json_own(t, json_pack("{s:O*, s:O*, s:O}", "model", json_object_get(is, "name"),
				      "props", props, "more", what_else(t, q, path)));
	if (task_check(t) < 0 || cpu_check(t, cpu) < 0)
		return -1;
	*ret = cpu;
	return 0;
}

/* ---- giving ---- */

/* A comma within an option's value is written twice. */
static char *quoted(const void *ctx, const char *value)
{
	char *to = talloc_array(ctx, char, 2 * strlen(value) + 1), *end = to;
	for (const char *c = value; *c; c++) {
		*end++ = *c;
		if (*c == ',')
			*end++ = ',';
	}
	*end = 0;
	return to;
}

/* Behind -cpu there can be none at all. */
static void add_text(struct args *a, const char *model, const char *name, const char *value)
{
	args_add(a, "-global",
		 str(a, "driver=%s" TYPE_END ",property=%s,value=%s", model, name,
		     quoted(a, value)));
}

/* What it has not is not said: the model has nothing, and an older QEMU may not know the name. */
static char *add_one(struct args *a, char *so_far, const char *model, const char *name,
		     const json_t *value)
{
	if (json_is_true(value))
		return talloc_asprintf_append(so_far, ",%s=on", name);
	if (json_is_integer(value))
		return talloc_asprintf_append(so_far, ",%s=%lld", name,
					      (long long)json_integer_value(value));
	if (json_is_string(value))
		add_text(a, model, name, json_string_value(value));
	return so_far;
}

void cpu_args(struct args *a, const json_t *cpu)
{
	const char *model = json_string_value(json_object_get(cpu, "model")), *name;
	char *option = str(a, "%s,enforce=on", model);
	json_t *value;
	for (size_t i = 0; i < COUNT(parts); i++)
		json_object_foreach (json_object_get(cpu, parts[i]), name, value)
			option = add_one(a, option, model, name, value);
	args_add(a, "-cpu", option);
}

/* ---- comparing ---- */

void cpu_compare(const void *ctx, const json_t *cpu, const json_t *host, unsigned phys_bits,
		 struct list *ret)
{
	const char *name;
	json_t *value = json_object_get(json_object_get(cpu, "more"), PHYS_BITS);
	if (json_integer_value(value) > phys_bits)
		list_put(ctx, ret,
			 str(ctx, PHYS_BITS "=%lld", (long long)json_integer_value(value)));
	json_object_foreach (json_object_get(cpu, "props"), name, value)
		if (json_is_true(value) && !json_is_true(json_object_get(host, name)))
			list_put(ctx, ret, name);
}
