// SPDX-License-Identifier: Apache-2.0
#include "model/dump.h"

#include "model/model.h"

static const char *const kinds[] = {
	"void",
	"event batch",
	"record",
	"string",
	"int",
	"float",
	"bool",
	"datetime",
	"enum",
	"ref",
	"string set",
	"int set",
	"enum set",
	"ref set",
	"string -> string",
	"string -> enum",
	"string -> ref",
	"enum -> string",
	"ref -> string",
	"int -> int",
	"int -> float",
	"int -> string set",
};
static const char *const accesses[] = { "RW", "SRO", "DRO", "link", "computed", "private" };

static void dump_class(FILE *out, const struct class *c)
{
	fprintf(out, "class %s\n", c->name);
	for (const struct field *f = c->fields; f->name; f++)
		fprintf(out, "  %-36s %-9s %-18s %-28s %s\n", f->name, accesses[f->access],
			kinds[f->kind], f->of, f->doc);
}

void model_dump(FILE *out)
{
	for (size_t i = 0; classes[i]; i++)
		dump_class(out, classes[i]);
	dump_class(out, &class_event);
}
