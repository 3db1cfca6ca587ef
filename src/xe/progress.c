// SPDX-License-Identifier: Apache-2.0
#include "xe/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/delay.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "xe/options.h"

enum {
	BAR = 30,
};

/* The last word of several counts. */
bool progress_wanted(const struct list *args, bool terminal)
{
	static const char key[] = "progress=";
	bool wanted = terminal;
	for (size_t i = 0; i < args->n; i++)
		if (streq(args->v[i], "--progress"))
			wanted = true;
		else if (starts_with(args->v[i], key))
			text_bool(args->v[i] + strlen(key), &wanted);
	return wanted;
}

static char *bar(const void *ctx, double part)
{
	char text[BAR + 1];
	int n = (int)(part * BAR);
	for (int i = 0; i < BAR; i++)
		text[i] = i < n ? '=' : i == n ? '>' : ' ';
	text[BAR] = 0;
	return str(ctx, "[%s] %3d %%  ", text, (int)(part * 100));
}

char *progress_line(const void *ctx, const struct progress *p, int64_t ms)
{
	double rate = ms > 0 ? (double)p->done * 1000 / (double)ms : 0;
	double part = p->total > 0 ? (double)p->done / (double)p->total : 1;
	const char *how_far = p->total < 0 ? "" : bar(ctx, part > 1 ? 1 : part);
	return str(ctx, "%s%10s %12s/s", how_far, size_str(ctx, (uint64_t)p->done),
		   size_str(ctx, (uint64_t)rate));
}

/* Whether it can be seen is no matter of the command's. */
static void draw(struct progress *p)
{
	void *scope = talloc_new(NULL);
	fprintf(stderr, "\r%s", progress_line(scope, p, clock_ms() - p->begun));
	fflush(stderr);
	talloc_free(scope);
	p->drawn = clock_ms();
}

void progress_begin(struct progress *p, const struct options *o, long long total)
{
	*p = (struct progress){
		.on = progress_wanted(&o->args, isatty(STDERR_FILENO)),
		.total = total,
		.begun = clock_ms(),
	};
}

void progress_add(struct progress *p, long long bytes)
{
	p->done += bytes;
	if (p->on && clock_ms() - p->drawn >= delay_ms(DELAY_XE_REDRAW))
		draw(p);
}

void progress_end(struct progress *p)
{
	if (!p->on || !p->drawn)
		return;
	draw(p);
	fprintf(stderr, "\n");
	p->on = false;
}
