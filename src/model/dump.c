// SPDX-License-Identifier: Apache-2.0
#include "model/dump.h"

#include "model/model.h"

static const char *const kinds[] = {
	"void",
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

void model_dump(FILE *out)
{
	for (size_t i = 0; classes[i]; i++) {
		fprintf(out, "class %s\n", classes[i]->name);
		for (const struct field *f = classes[i]->fields; f->name; f++)
			fprintf(out, "  %-36s %-9s %-18s %-28s %s\n", f->name, accesses[f->access],
				kinds[f->kind], f->of, f->doc);
	}
}
