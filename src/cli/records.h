// SPDX-License-Identifier: Apache-2.0
/* records.h -- objects as the command line shows them, from the tables in records.def.
 *
 * A view is one name for a class there: vm, template and snapshot are three views of class VM.
 * A record is a block of lines, its labels aligned at the colons:
 *
 *     uuid ( RO)          : 6f0e...
 *         name-label ( RW): before the upgrade */
#pragma once

#include "model/model.h"

struct task;

enum {
	UNSEEN = 1,     /* printed only when asked for by name */
	COSTLY = 2,     /* not worked out for params=all */
	DEPRECATED = 4, /* told behind the label */
	LOWER = 8,      /* the value in lower case */
	CAPITAL = 16,   /* the value as words, the first letter a capital */
	COMMA = 32,     /* between the members of a set */
};

struct column {
	const char *name;
	const char *tag;
	const char *path; /* from field to field; NULL: worked out */
	char *(*worked)(struct task *, const struct row *);
	int marks;
};

struct view {
	const char *name;
	const struct class *class;
	const struct column *columns; /* ended by one without a name */
	const char *defaults;         /* columns of a list, separated by commas */
	const char *filters;          /* always applied by a list: "is-a-template=false,..." */
};
extern const struct view views[]; /* ended by one without a name */

/* NULL: no such view; no such column. */
const struct view *view_find(const char *name);
const struct column *view_column(const struct view *, const char *name);
bool column_is_writable(const struct column *);

/* Where a column's path ends: a field of a row.  When there is no row, field is NULL and
 * absent what is printed instead. */
struct cell {
	const struct row *row;
	const struct field *field;
	const char *absent;
};
struct cell column_cell(struct task *, const struct column *, const struct row *);
/* That field, whether there is a row or not; NULL: the column is worked out. */
const struct field *column_field(struct task *, const struct view *, const struct column *);

/* The value as printed. */
const char *column_text(struct task *, const struct column *, const struct row *);
/* A word of an enumeration, in the letters that a column's marks want. */
const char *with_marks(struct task *, const char *text, int marks);
/* The members of a set, the pairs of a map, as printed; false when the column is none. */
bool column_set(struct task *, const struct column *, const struct row *, struct list *ret);
bool column_map(struct task *, const struct column *, const struct row *, struct map *ret);

/* "name ( RW)" of a column, on ctx. */
char *column_label(const void *ctx, const struct column *);
/* Labels and values as one record, with the newline and the empty line that end it. */
char *record_layout(const void *ctx, const struct map *lines);
