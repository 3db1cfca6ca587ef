// SPDX-License-Identifier: Apache-2.0
#include "model/dump.h"

#include "base/text.h"
#include "model/model.h"

static const char *const kinds[] = {
	[VOID] = "void",
	[EVENT_BATCH] = "event batch",
	[EVENT_SET] = "event set",
	[RECORD] = "record",
	[RECORDS] = "ref -> record",
	[STRING] = "string",
	[INT] = "int",
	[FLOAT] = "float",
	[BOOL] = "bool",
	[DATETIME] = "datetime",
	[ENUM] = "enum",
	[REF] = "ref",
	[STRING_SET] = "string set",
	[INT_SET] = "int set",
	[ENUM_SET] = "enum set",
	[REF_SET] = "ref set",
	[STRING_MAP] = "string -> string",
	[ENUM_MAP] = "string -> enum",
	[REF_MAP] = "string -> ref",
	[KEYED_MAP] = "enum -> string",
	[BYREF_MAP] = "ref -> string",
	[COUNT_MAP] = "string -> int",
	[INT_INT_MAP] = "int -> int",
	[INT_FLOAT_MAP] = "int -> float",
	[INT_SET_MAP] = "int -> string set",
};
static const char *const accesses[] = { "RW", "SRO", "DRO", "link", "computed", "private" };

static void dump_class(FILE *out, const struct class *c)
{
	fprintf(out, "class %s\n", c->name);
	for (const struct field *f = c->fields; f->name; f++)
		fprintf(out, "  %-36s %-9s %-18s %-28s %s\n", f->name, accesses[f->access],
			kinds[f->kind], f->of, f->doc);
}

/* ---- calls ---- */

static const struct {
	const char *name, *text;
} roles[] = {
#define ROLE(name, text, uuid, doc) { #name, text },
#include "model/roles.def"
};

static const struct {
	const char *name, *role;
	enum kind result;
	const char *args; /* " name:kind:of", in brackets when a client may leave it out */
} calls[] = {
#define ARG(kind, of, name) " " #name ":" #kind ":" #of
#define OPT(kind, of, name) " [" #name ":" #kind ":" #of "]"
#define CALL(class, name, kind, of, role, doc, ...)                                                \
	{ #class "." #name, #role, kind, "" __VA_ARGS__ },
#include "model/calls.def"
};

static const char *const without_async[] = {
#define NO_ASYNC(class, name) #class "." #name,
#include "model/no_async.def"
};

static const char *role_text(const char *name)
{
	size_t i = 0;
	while (!streq(roles[i].name, name))
		i++;
	return roles[i].text;
}

static bool has_async(const char *call)
{
	for (size_t i = 0; i < COUNT(without_async); i++)
		if (streq(without_async[i], call))
			return false;
	return true;
}

static void dump_calls(FILE *out)
{
	for (size_t i = 0; i < COUNT(calls); i++)
		fprintf(out, "call %-40s %-14s %-8s %s%s\n", calls[i].name,
			role_text(calls[i].role), has_async(calls[i].name) ? "async" : "-",
			kinds[calls[i].result], calls[i].args);
}

void model_dump(FILE *out)
{
	for (size_t i = 0; classes[i]; i++)
		dump_class(out, classes[i]);
	dump_class(out, &class_event);
	dump_calls(out);
}
